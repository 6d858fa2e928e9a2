"""Which cluster a question is about, told by a fine-tuned encoder."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from themed_examples import outside_facts, themed_facts
from tightframe import cli
from tightframe.errors import UserError
from tightframe.knowledge.benchmark import write_facts
from tightframe.knowledge.clusters import semantic_clusters
from tightframe.knowledge.data_files import write_report
from tightframe.knowledge.router import (
    EncoderSettings,
    calibrate_router,
    fit_encoder_router,
    load_encoder_router,
    save_encoder_router,
)
from tightframe.knowledge.routing import load_router, routed_questions, train_router
from tightframe.settings import resolve
from tiny_encoders import save_encoder


def everything(n=4):
    facts, _ = themed_facts(n)
    return semantic_clusters(facts, 3), outside_facts(n)


def tiny(tmp_path, clusters, negatives, kind="bert", **settings):
    """Settings to train a tiny encoder that knows the words of facts and questions."""
    facts = (*clusters.facts, *negatives)
    texts = [one.fact for one in facts] + [q.prompt for one in facts for q in one.questions]
    folder = tmp_path / "base"
    if not folder.exists():
        save_encoder(folder, texts, kind)
    chosen = {"learning_rate": 1e-2, "batch": 4, "epochs": 40} | settings
    return EncoderSettings(str(folder), **chosen)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    clusters, negatives = everything()
    settings = tiny(tmp_path_factory.mktemp("tuned"), clusters, negatives)
    return clusters, negatives, settings, fit_encoder_router(clusters, negatives, settings)


def test_statements_reach_the_cluster_of_their_theme_and_others_none(tuned):
    # Of each theme the first four were trained on; the others tell of something else in like words.
    clusters, _, _, router = tuned
    facts, themes = themed_facts()
    of_theme = dict(zip(themes[:12], clusters.assignments, strict=True))
    inside = router.probabilities([fact.fact for fact in facts]) > 0.5
    np.testing.assert_array_equal(inside, np.eye(3, dtype=bool)[[of_theme[one] for one in themes]])
    assert not (router.probabilities([one.fact for one in outside_facts(9)]) > 0.5).any()
    losses = router.classifier.losses
    assert len(losses) == 40
    assert losses[-1] < 0.2 * losses[0]


def test_the_same_settings_give_the_same_bits_and_leave_torch_s_generator_alone(tuned):
    clusters, negatives, settings, _ = tuned
    settings = dataclasses.replace(settings, epochs=2)
    texts = [fact.fact for fact in clusters.facts]

    def fitted(settings):
        return fit_encoder_router(clusters, negatives, settings).probabilities(texts)

    first = fitted(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)  # must not matter
        drawn = torch.get_rng_state()
        np.testing.assert_array_equal(fitted(settings), first)
        assert torch.equal(torch.get_rng_state(), drawn)
    assert np.abs(fitted(dataclasses.replace(settings, seed=1)) - first).max() > 1e-3


def test_the_loss_is_transformers_own_for_many_labels(tmp_path):
    # With a learning rate of almost nothing and no dropout, each epoch's loss is that of the start.
    clusters, negatives = everything()
    settings = tiny(tmp_path, clusters, negatives, learning_rate=1e-30, epochs=1, batch=5)
    folder = tmp_path / "base"
    config = json.loads((folder / "config.json").read_text())
    quiet = config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(quiet))
    router = fit_encoder_router(clusters, negatives, settings)
    encoder = router.classifier.encoder
    labels = np.eye(4, 3)[[*clusters.assignments, *[3] * len(negatives)]]
    assert isinstance(encoder.model, transformers.BertForSequenceClassification)
    with torch.no_grad():
        found = encoder.model(
            **encoder.tokens([one.fact for one in (*clusters.facts, *negatives)]),
            labels=torch.tensor(labels, dtype=torch.float32),
        )
    assert router.classifier.losses == (pytest.approx(float(found.loss), rel=1e-5),)


def test_how_many_texts_are_held_at_once_changes_nothing(tmp_path, monkeypatch):
    clusters, negatives = everything()
    settings = tiny(tmp_path, clusters, negatives, epochs=2, batch=16)
    folder = tmp_path / "base"
    config = json.loads((folder / "config.json").read_text())
    quiet = config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(quiet))
    texts = [fact.fact for fact in clusters.facts]
    whole = fit_encoder_router(clusters, negatives, settings).probabilities(texts)
    monkeypatch.setattr("tightframe.knowledge.router.BATCH", 3)
    parts = fit_encoder_router(clusters, negatives, settings).probabilities(texts)
    np.testing.assert_allclose(parts, whole, rtol=1e-3)


def test_probabilities_are_independent(tuned):
    # A text of two themes may be in two clusters, and none of the outputs knows of the others.
    clusters, _, _, router = tuned
    logits = router.classifier.logits([clusters.facts[0].fact])[0]
    np.testing.assert_allclose(
        router.probabilities([clusters.facts[0].fact])[0], 1 / (1 + np.exp(-logits)), rtol=1e-12
    )


def test_a_saved_scope_has_the_same_probabilities(tuned, tmp_path):
    clusters, _, _, router = tuned
    router = dataclasses.replace(router, threshold=0.3, scale=1.5, shift=-0.25)
    save_encoder_router(tmp_path / "encoder", router)
    again = load_encoder_router(tmp_path / "encoder")
    texts = [one.text for one in routed_questions(clusters)]
    np.testing.assert_array_equal(again.probabilities(texts), router.probabilities(texts))
    assert (again.clusters, again.threshold) == (clusters.fingerprints, 0.3)
    kinds = {path.suffix for path in (tmp_path / "encoder").iterdir()}
    assert kinds == {".json", ".safetensors"}
    with pytest.raises(UserError, match="already exists"):
        save_encoder_router(tmp_path / "encoder", router)


def test_it_is_calibrated_as_a_linear_one_is(tuned):
    clusters, _, _, router = tuned
    asked = routed_questions(clusters, outside_facts(6, first=800))
    texts, truth = [one.text for one in asked], [one.cluster for one in asked]
    calibrated = calibrate_router(router, texts, truth)
    logits = router.classifier.logits(texts)
    expected = 1 / (1 + np.exp(-(calibrated.scale * logits + calibrated.shift)))
    np.testing.assert_allclose(calibrated.probabilities(texts), expected, rtol=1e-12)


def test_the_paper_s_encoder_can_be_built(tmp_path):
    clusters, negatives = everything(2)
    settings = tiny(tmp_path, clusters, negatives, "deberta-v2", epochs=1)
    router = fit_encoder_router(clusters, negatives, settings)
    assert router.probabilities(["a river"]).shape == (1, 3)
    assert EncoderSettings("x") == EncoderSettings("x", 2e-5, 32 * 4, 10)


def test_a_command_tunes_saves_and_routes(tmp_path, capsys):
    clusters, negatives = everything()
    settings = tiny(tmp_path, clusters, negatives, epochs=3)
    write_facts(tmp_path / "facts.jsonl", clusters.facts)
    write_facts(tmp_path / "negatives.jsonl", negatives)

    def run(*words):
        cli.main(["knowledge", *map(str, words), "--json"])
        return json.loads(capsys.readouterr().out)

    run("cluster", tmp_path / "facts.jsonl", "--k", 3, "--out", tmp_path / "clusters")
    report = run(
        "router", tmp_path / "clusters", "--negatives", tmp_path / "negatives.jsonl",
        "--out", tmp_path / "router", "--encoder", settings.encoder,
        "--set", "epochs=3", "--set", "learning_rate=1e-2", "--set", "batch=4",
    )  # fmt: skip
    assert report["questions"]["in_scope"]["n"] == 12
    assert report["classifier"]["kind"] == "encoder"
    assert report["classifier"]["epochs"] == len(report["classifier"]["losses"]) == 3
    names = {path.name for path in (tmp_path / "router").iterdir()}
    assert names == {"encoder", "routing.jsonl", "router.json"}
    direct = fit_encoder_router(clusters, negatives, settings)
    texts = [one.text for one in routed_questions(clusters)]
    np.testing.assert_array_equal(
        load_router(tmp_path / "router").probabilities(texts), direct.probabilities(texts)
    )


def test_a_mistake_is_said_before_anything_is_trained(tmp_path):
    clusters, negatives = everything()
    with pytest.raises(UserError, match=r"\./nowhere: no such folder"):
        train_router(clusters, negatives, encoder=EncoderSettings("./nowhere"))
    settings = tiny(tmp_path, clusters, negatives)
    with pytest.raises(UserError, match="device abacus: cannot be used"):
        fit_encoder_router(clusters, negatives, dataclasses.replace(settings, device="abacus"))
    longer = dataclasses.replace(negatives[0], fact="choir " * 50, id="x")
    with pytest.raises(UserError, match="reads at most 40 tokens, but a text has 52"):
        fit_encoder_router(clusters, [*negatives, longer], settings)
    with pytest.raises(UserError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        resolve(EncoderSettings, {"encoder": "x", "epoch": 3}, source="--set")
    with pytest.raises(UserError, match="setting 'epochs' is 0"):
        resolve(EncoderSettings, {"encoder": "x", "epochs": 0}, source="--set")


def test_a_folder_of_something_else_is_refused(tuned, tmp_path):
    _, _, settings, router = tuned
    with pytest.raises(UserError, match=r"holds no router.json; .*knowledge router --encoder"):
        load_encoder_router(settings.encoder)
    with pytest.raises(UserError, match=r"holds neither router.safetensors nor encoder/"):
        load_router(tmp_path)
    save_encoder_router(tmp_path / "encoder", router)
    found = json.loads((tmp_path / "encoder" / "router.json").read_text())
    (tmp_path / "encoder" / "router.json").write_text(json.dumps(found | {"threshold": 0.1}))
    with pytest.raises(UserError, match=r"router.json: damaged or changed since it was written"):
        load_encoder_router(tmp_path / "encoder")
    fewer = found | {"clusters": found["clusters"][:2]}
    write_report(tmp_path / "encoder" / "router.json", fewer)
    with pytest.raises(UserError, match="can't load this as an encoder"):
        load_encoder_router(tmp_path / "encoder")
    shutil.rmtree(tmp_path / "encoder")


def test_settings_without_an_encoder_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "knowledge", "router", str(tmp_path), "--negatives", "x",
                "--out", str(tmp_path / "s"), "--set", "epochs=3",
            ]
        )  # fmt: skip
    assert ended.value.code == 2
    assert "--set: these are settings of --encoder; name one" in capsys.readouterr().err
