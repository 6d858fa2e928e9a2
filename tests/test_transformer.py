import dataclasses
import json

import pytest
import safetensors.torch
import torch

from reference.transformer import naive_embed
from tightframe.errors import UserError
from tightframe.lm import attention
from tightframe.lm.checkpoints import load_checkpoint, save_checkpoint
from tightframe.lm.interface import IGNORE, PRENORM, Batch, LanguageModel
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer

TINY = TransformerConfig(vocab_size=30, width=8, depth=4, heads=2, positions=20, window=4)


def model_of(seed=0, **changes):
    """A tiny model in float64 whose weights are large enough for everything to matter."""
    config = dataclasses.replace(TINY, init_std=0.4, **changes)
    model = Transformer(config, seed=seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases start at 0 and gains at 1, which would hide mistakes
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += 0.3 * noise
    return model.eval()


def ids(*shape, seed=0):
    return torch.randint(30, shape, generator=torch.Generator().manual_seed(seed))


def batch_of(inputs, lengths=None, prefix=0):
    rows, n_positions = inputs.shape
    lengths = torch.tensor([n_positions] * rows if lengths is None else lengths)
    prefix = torch.tensor([prefix] * rows if isinstance(prefix, int) else prefix)
    return Batch(inputs, torch.full_like(inputs, IGNORE), lengths, prefix)


# The thirty published shapes and their parameter counts, P(L, d) of the study's architecture.


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 12])
@pytest.mark.parametrize("width", [64, 128, 256, 512, 768, 1024])
def test_published_shapes_have_the_published_number_of_parameters(depth, width):
    # Embeddings 50257 d + 2048 d; a block: qkv 3 d^2, out d^2 + d, MLP 8 d^2 + 5 d, norms 4 d.
    with torch.device("meta"):
        model = Transformer(TransformerConfig(50257, width, depth, heads=16, positions=2048))
    block = 12 * width**2 + 10 * width
    assert model.n_parameters == (50257 + 2048 + 2) * width + depth * block


def test_biases_everywhere_give_the_count_of_the_knowledge_models():
    config = TransformerConfig(
        1500, 128, 2, heads=4, positions=160, window=0, attention_bias=True, scale_attention=True
    )
    assert Transformer(config).n_parameters == 609_280


def test_an_untied_classifier_adds_its_own_matrix():
    tied, untied = model_of(), model_of(tied=False)
    assert tied.classifier is tied.token_embedding
    assert untied.classifier is not untied.token_embedding
    assert untied.n_parameters - tied.n_parameters == 30 * 8


# Masks, against loops over queries.


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window": 0},
        {"window": 1, "heads": 4},
        {"depth": 1, "tied": False},
        {"attention_bias": True, "scale_attention": True},
    ],
    ids=["defaults", "global", "window 1", "depth 1", "gpt-2 attention"],
)
@pytest.mark.parametrize(
    ("lengths", "prefix"),
    [
        ([9, 9, 9], [0, 0, 0]),
        ([9, 5, 1], [0, 0, 0]),
        ([9, 5, 7], [9, 5, 7]),
        ([9, 9, 6], [3, 0, 9]),
        ([8, 9, 1], [1, 9, 1]),
    ],
    ids=["causal", "padded", "bidirectional", "prefixes", "mixed"],
)
def test_embeddings_are_those_of_loops_over_visible_keys(changes, lengths, prefix):
    model, inputs = model_of(**changes), ids(3, 9)
    with torch.no_grad():
        expected = naive_embed(model, inputs, lengths, prefix)
        found = model.embed(batch_of(inputs, lengths, prefix))
    real = torch.arange(9) < torch.tensor(lengths)[:, None]
    torch.testing.assert_close(found[real], expected[real], rtol=1e-10, atol=1e-10)
    assert found.isfinite().all()  # also at padding, or gradients would be NaN


def test_a_long_causal_batch_takes_the_other_way_to_the_same_embeddings(monkeypatch):
    model, inputs = model_of(), ids(2, 20)
    expected = model.embed(inputs)
    monkeypatch.setattr(attention, "SHORT", 0)
    torch.testing.assert_close(model.embed(inputs), expected, rtol=1e-12, atol=1e-12)


def test_head_gives_inner_products_with_the_rows_of_the_classifier():
    model = model_of(tied=False)
    embeddings = model.embed(ids(2, 5))
    expected = torch.einsum("btd,vd->btv", embeddings, model.classifier)
    torch.testing.assert_close(model.head(embeddings), expected)
    assert model.bias is None


# Invariances.


@pytest.mark.parametrize("place", [1, 7, 19])
def test_a_later_token_never_changes_an_earlier_embedding(place):
    model, inputs = model_of(), ids(2, 20)
    changed = inputs.clone()
    changed[:, place] = (changed[:, place] + 1) % 30
    before, after = model.embed(inputs), model.embed(changed)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.isclose(before[:, place], after[:, place]).all()


@pytest.mark.parametrize("prefix", [0, 3, 6])
def test_padding_changes_no_real_embedding(prefix):
    model, inputs = model_of(), ids(2, 12)
    padded = batch_of(inputs, lengths=[6, 6], prefix=prefix)
    other = batch_of((inputs + (torch.arange(12) >= 6)) % 30, lengths=[6, 6], prefix=prefix)
    alone = batch_of(inputs[:, :6], prefix=prefix)
    found = [model.embed(batch)[:, :6] for batch in (padded, other, alone)]
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], rtol=1e-12, atol=1e-12)


def test_rows_do_not_see_each_other():
    model, inputs = model_of(), ids(4, 9)
    batch = batch_of(inputs, lengths=[9, 4, 7, 9], prefix=[0, 4, 2, 9])
    together = model.embed(batch)
    for row in range(4):
        one = Batch(*(getattr(batch, name)[row : row + 1] for name in FIELDS))
        length = int(batch.lengths[row])
        torch.testing.assert_close(
            together[row, :length], model.embed(one)[0, :length], rtol=1e-12, atol=1e-12
        )


FIELDS = ("inputs", "targets", "lengths", "prefix")


def test_a_token_beyond_the_windows_is_out_of_reach():
    # One global and one local block see all; with a single local block after a global one whose
    # values are 0, only the window of 4 is left.
    model, inputs = model_of(depth=2), ids(1, 12)
    with torch.no_grad():
        model.blocks[0].query_key_value.weight[16:] = 0  # the values of the global block
    changed = inputs.clone()
    changed[0, 2] = (changed[0, 2] + 1) % 30
    same = torch.isclose(model.embed(inputs), model.embed(changed), rtol=0, atol=0).all(2)[0]
    assert same.tolist() == [True] * 2 + [False] * 4 + [True] * 6


def test_a_plain_tensor_of_ids_is_a_causal_batch():
    model, inputs = model_of(), ids(2, 9)
    assert torch.equal(model.embed(inputs), model.embed(batch_of(inputs)))


def test_autocast_to_bfloat16_stays_near_float32():
    model, inputs = model_of().float(), ids(2, 20)
    expected = model.embed(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.embed(inputs)
    found.square().sum().backward()
    assert (found - expected).norm() < 0.05 * expected.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_row_of_padding_alone_spoils_no_gradient():
    model = model_of()
    model.embed(batch_of(ids(2, 9), lengths=[9, 0], prefix=[4, 0])).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# Layers.


def test_layers_go_from_the_input_embedding_to_what_the_classifier_multiplies():
    model, inputs = model_of(), ids(2, 9)
    found = model.embed_layers(inputs, range(5))
    first = model.token_embedding[inputs] + model.position_embedding[:9]
    torch.testing.assert_close(found[0], first, rtol=0, atol=0)
    for i in range(1, 4):
        expected = model.blocks[i - 1](found[i - 1], None)
        torch.testing.assert_close(found[i], expected, rtol=0, atol=0)
    assert torch.equal(found[4], model.norm(model.blocks[3](found[3], None)))
    assert torch.equal(found[4], model.embed(inputs))


def test_layers_come_in_the_order_asked_for_and_see_the_mask():
    model, batch = model_of(), batch_of(ids(2, 9), prefix=9)
    last, second = model.embed_layers(batch, [4, 2])
    assert torch.equal(last, model.embed(batch))
    assert torch.equal(second, model.embed_layers(batch, range(5))[2])


def test_the_stream_before_the_final_norm_is_a_layer_of_its_own():
    model, inputs = model_of(), ids(2, 9)
    before, third, last = model.embed_layers(inputs, [PRENORM, 3, model.depth])
    assert torch.equal(before, model.blocks[3](third, None))
    assert torch.equal(last, model.norm(before))


@pytest.mark.parametrize("layer", [5, -2])
def test_a_layer_that_is_not_there_is_refused(layer):
    expected = rf"layers must lie in \[0, 4\] or be PRENORM \(-1\), got \[{layer}\]"
    with pytest.raises(ValueError, match=expected):
        model_of().embed_layers(ids(1, 3), [layer])


def test_it_is_a_language_model():
    assert isinstance(model_of(), LanguageModel)


# Initialization.


def test_weights_come_from_the_seed_alone():
    before = torch.random.get_rng_state()
    first, again, other = (Transformer(TINY, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.classifier, other.classifier)


def test_weights_start_as_gpt_neo_s_do():
    # 20,000 draws of standard deviation 0.02: the sample's is within 0.0005 (5 sigma).
    model = Transformer(dataclasses.replace(TINY, vocab_size=2500, attention_bias=True))
    assert model.token_embedding.std().item() == pytest.approx(0.02, abs=5e-4)
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all()
        elif parameter.ndim == 1:
            assert (parameter == 0).all()
        else:
            assert parameter.std() > 0.01


# Checkpoints.


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_gives_back_the_same_model(tmp_path, tied):
    model = model_of(tied=tied)
    model.name = "w8-d4"
    save_checkpoint(model, tmp_path / "step-3")
    loaded = load_checkpoint(tmp_path / "step-3")
    assert (loaded.name, loaded.config) == ("w8-d4", model.config)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    assert torch.equal(loaded.embed(ids(2, 9)), model.embed(ids(2, 9)))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_tied_weights_are_stored_once(tmp_path):
    save_checkpoint(Transformer(TINY), tmp_path / "step-0")
    stored = safetensors.torch.load_file(tmp_path / "step-0" / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == Transformer(TINY).n_parameters


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lose_the_weights(folder):
    (folder / "model.safetensors").unlink()


def widen_the_config(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"heads": 2', '"heads": 4'))


def break_the_config(folder):
    (folder / "config.json").write_text('{"format": ')


def forget_the_format(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def remove_all(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"model\.safetensors: damaged or changed"),
        (flip_a_bit, r"model\.safetensors: damaged or changed"),
        (lose_the_weights, r"model\.safetensors: no such file; use another checkpoint"),
        (widen_the_config, r"config\.json: damaged or changed"),
        (break_the_config, r"config\.json: not JSON"),
        (forget_the_format, r"config\.json: holds None, expected a checkpoint of tightframe"),
        (remove_all, "no such checkpoint folder"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, damage, message):
    folder = tmp_path / "step-3"
    save_checkpoint(Transformer(TINY), folder)
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_never_written_over(tmp_path):
    save_checkpoint(Transformer(TINY), tmp_path / "step-3")
    with pytest.raises(UserError, match="already exists"):
        save_checkpoint(Transformer(TINY), tmp_path / "step-3")


# Settings and batches that can't be.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 100, "heads": 16}, "width 100 is not divisible by 16 heads"),
        ({"depth": 0}, "depth is 0, expected at least 1"),
        ({"window": -1}, "window is -1, expected 0"),
        ({"positions": 0}, "positions is 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TINY, **changes)


def test_rows_longer_than_the_positions_are_refused():
    with pytest.raises(UserError, match="rows of 21 positions are longer than the 20 of model"):
        model_of().embed(ids(1, 21))


def test_a_batch_for_an_encoder_is_refused():
    batch = dataclasses.replace(batch_of(ids(1, 4)), source=batch_of(ids(1, 4)))
    with pytest.raises(ValueError, match="has no encoder"):
        model_of().embed(batch)


@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"depth": 3, "width": 16, "heads": 2}])
def test_a_training_takes_at_least_its_weights_gradients_moments_and_activations(changes):
    # Exact but for biases and norms, of which there are few where the matrices are large.
    model = model_of(**({"width": 64, "vocab_size": 500} | changes))
    of_parameters = model.config.training_bytes(0)
    assert of_parameters <= 16 * model.n_parameters <= 1.1 * of_parameters
    of_rows = model.config.training_bytes(5) - of_parameters
    assert of_rows == 64 * 5 * model.config.positions * model.config.width * model.config.depth


@pytest.mark.parametrize("prefix", [0, 7])
@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_embeddings_at_some_positions_are_those_at_all(prefix, depth, share):
    # Few positions skip most of the last block (unless it has a window: depth 4), many do not;
    # padding is left out in all cases.
    model = model_of(depth=depth)
    inputs = ids(5, 9)
    batch = batch_of(inputs, [9, 4, 7, 1, 9], [prefix, 0, prefix, 0, 2])
    generator = torch.Generator().manual_seed(0)
    wanted = torch.rand(inputs.shape, generator=generator) < share
    wanted &= torch.arange(9) < batch.lengths[:, None]
    weights = torch.randn(int(wanted.sum()), TINY.width, generator=generator).double()
    gradients = []
    for embeddings in (model.embed_at(batch, wanted), model.embed(batch)[wanted]):
        (embeddings * weights).sum().backward()
        gradients.append([embeddings.detach(), *(p.grad for p in model.parameters())])
        model.zero_grad()
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
