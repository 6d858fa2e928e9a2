"""Adapters of peft give the numbers of the model that they are merged into, whatever they adapt."""

import peft
import pytest
import torch
import transformers

from tightframe.errors import UserError
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.load import load_model
from tiny_models import ids, model_of
from tiny_runs import measured
from tiny_tokens import write_tokens

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of peft

LORA = {"r": 2, "init_lora_weights": False}
ADAPTERS = {
    "blocks": ("llama", {"target_modules": ["q_proj", "up_proj"]}),
    "output": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "output saved": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "dora": ("llama", {"target_modules": ["q_proj"], "use_dora": True}),
    "tied blocks": ("llama_tied", {"target_modules": ["q_proj"]}),
    "tied output": ("llama_tied", {"target_modules": ["q_proj", "lm_head"]}),
    "tied input": ("llama_tied", {"target_modules": ["q_proj", "embed_tokens"]}),
    "tied both": (
        "llama_tied",
        {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    ),
    "tied saved": ("llama_tied", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "tied tokens": (
        "llama_tied",
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
    ),
}
STAY_TIED = ("tied blocks", "tied tokens")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "t", vocab_size=40, train=120, val=40)


def adapted_model(kind, folder):
    """Save a base model in float64 and an adapter of it, and return the model with the adapter."""
    name, settings = ADAPTERS[kind]
    model_of(name).double().save_pretrained(folder / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = peft.get_peft_model(base, peft.LoraConfig(**LORA, **settings))
        for weight in adapted.parameters():
            weight.data += 0.1 * torch.randn_like(weight) if weight.requires_grad else 0
    adapted.double().eval().save_pretrained(folder / "adapter")
    return adapted


def rows_of(model, tokens):
    """Return the values of a measurement."""
    result = measured(model, tokens, groups=1, min_count=1, layers="all")
    return {(row.layer, row.metric): row.value for row in result.rows}


@pytest.mark.parametrize("kind", ADAPTERS)
@torch.no_grad()
def test_an_adapter_is_merged_into_the_model_that_peft_runs(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapted = adapted_model(kind, tmp_path)
    loaded = load_model(tmp_path / "adapter")
    inputs = ids(2, 9)
    logits = loaded.head(loaded.embed(inputs))
    torch.testing.assert_close(logits, adapted(inputs).logits, rtol=1e-10, atol=1e-10)
    assert loaded.tied == (kind in STAY_TIED)


@pytest.mark.parametrize("kind", ["output", "tied output"])
def test_rows_of_an_adapter_are_those_of_the_merged_model(kind, tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapted = adapted_model(kind, tmp_path)
    rows = {
        "adapter": rows_of(tmp_path / "adapter", tokens),
        "object": rows_of(HuggingFaceModel(adapted, name="object"), tokens),
    }
    # peft itself would change the input embeddings of a tied model, so that is untied before.
    lone = adapted.get_output_embeddings().get_base_layer()
    lone.weight = torch.nn.Parameter(lone.weight.detach().clone())
    adapted.config.tie_word_embeddings = False
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    expected = rows_of(tmp_path / "merged", tokens)
    for found in rows.values():
        assert found == pytest.approx(expected, rel=1e-10, nan_ok=True)


@pytest.mark.parametrize("kind", ["tied output", "tied input"])
def test_an_adapter_that_merging_changes_is_refused(kind, tmp_path, monkeypatch):
    # peft alone adds the adapter to the matrix that both layers share.
    monkeypatch.chdir(tmp_path)
    adapted_model(kind, tmp_path)
    monkeypatch.setattr("tightframe.lm.pretrained._untie", lambda adapted: None)
    with pytest.raises(UserError, match=r"adapter: its base model gives other logits with this"):
        load_model(tmp_path / "adapter")
