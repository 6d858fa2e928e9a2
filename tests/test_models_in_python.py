"""Tokens, training and models as a reader of the guide uses them: through `tightframe` alone."""

import pytest
import torch
import transformers

import tightframe as tf
from hub_models import CONFIGS
from tiny_tokens import write_tokens


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    tokens = write_tokens(tmp_path_factory.mktemp("python") / "tokens")
    sizes = {"width": 8, "depth": 2, "heads": 2, "epochs": 1, "threads": 1, "precision": "fp32"}
    return tf.lm.train(tf.TokenShards.open(tokens), out=tokens.parent / "run", **sizes)


def test_one_call_builds_token_shards(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a b a, said Ada."}\n' * 200)
    built = tf.corpus.build(tmp_path / "a.jsonl", out=tmp_path / "x", vocab_size=262, block=8)
    opened = tf.TokenShards.open(tmp_path / "x")
    assert opened.fingerprint == built.fingerprint
    assert opened.block == 8
    with pytest.raises(TypeError, match="blok"):
        tf.corpus.build(tmp_path / "a.jsonl", out=tmp_path / "y", vocab_size=262, blok=8)


def test_one_call_trains_and_resumes_nothing_that_is_finished(run):
    again = tf.lm.train(run.settings.tokens, out=run.path, **{"width": 8, "depth": 2, "heads": 2})
    assert again.steps == run.steps
    assert again.finished


def test_a_training_that_cannot_be_is_one_line(run, tmp_path):
    with pytest.raises(tf.UserError, match="unknown setting 'widht'; did you mean 'width'"):
        tf.lm.train(run.settings.tokens, out=tmp_path / "x", widht=8)
    with pytest.raises(tf.UserError, match="width 7 is not divisible by 4 heads"):
        tf.lm.train(run.settings.tokens, out=tmp_path / "x", width=7)
    assert list(tmp_path.iterdir()) == []


def test_a_run_loads_by_its_path_and_a_model_of_ours_is_itself(run):
    model = tf.load_model(run.path)
    inputs = torch.arange(8)[None]
    logits = model.embed(inputs) @ model.classifier.T
    torch.testing.assert_close(logits, model.head(model.embed(inputs)))
    assert tf.load_model(model) is model
    with pytest.raises(tf.UserError, match="Transformer: is a model, so it has no step 3"):
        tf.load_model(model, step=3)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_model_of_transformers_is_taken_as_it_is(kind):
    theirs = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]())
    model = tf.load_model(theirs)
    assert model.model is theirs
    assert not theirs.training
    inputs = torch.arange(3, 9)[None]
    with torch.no_grad():
        logits = theirs(input_ids=inputs).logits
        torch.testing.assert_close(model.embed(inputs) @ model.classifier.T, logits)
    assert model.name == type(theirs).__name__


def test_what_is_no_language_model_is_refused():
    with pytest.raises(TypeError, match="Linear is neither tightframe's Transformer nor a causal"):
        tf.load_model(torch.nn.Linear(2, 2))
