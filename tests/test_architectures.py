"""Every architecture of transformers stands behind LanguageModel, found without names of layers."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F

from tightframe.errors import UserError
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.interface import PRENORM, Batch, LanguageModel
from tightframe.lm.load import load_model, randomly_initialized
from tiny_models import ARCHITECTURES, POSITIONS, V, ids, save

pytestmark = pytest.mark.parametrize("name", ARCHITECTURES)

# Sums of another order differ by some units in the last place of float32 numbers up to 40.
close = functools.partial(torch.testing.assert_close, rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The model as transformers made it, and as it is loaded from its folder; each kind once."""

    @functools.cache
    def of(name):
        folder = tmp_path_factory.mktemp("models") / name
        return save(name, folder), load_model(folder)

    return of


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def test_embeddings_times_classifier_are_the_logits(both, name):
    theirs, ours = both(name)
    inputs = ids(3, 11)
    logits = theirs(inputs).logits
    embeddings = ours.embed(inputs)
    assert isinstance(ours, HuggingFaceModel)
    assert isinstance(ours, LanguageModel)
    assert ours.name == name
    assert ours.n_parameters == theirs.num_parameters()
    assert torch.equal(ours.classifier, theirs.get_output_embeddings().weight)
    assert ours.tied == theirs.config.tie_word_embeddings
    assert (ours.bias is not None) == (name in ("phi", "modernbert_decoder"))
    close(ours.head(embeddings), logits)
    close(ours.head(embeddings[0, 3]), logits[0, 3])
    # By hand, in tiles of the vocabulary, with what the architecture is known to do last.
    products = F.linear(embeddings, ours.classifier, ours.bias)
    finish = ARCHITECTURES[name].finish
    assert (ours.finish is None) == (finish is None)
    close(finish(products) if finish else products, logits)
    tile = products[..., 5:17].flatten(0, 1)
    before = tile.clone()
    close(ours.finish(tile) if ours.finish else tile, logits[..., 5:17].flatten(0, 1))
    assert torch.equal(tile, before)


def test_layers_are_the_hidden_states_of_transformers(both, name):
    theirs, ours = both(name)
    inputs = ids(2, 9)
    expected = theirs(inputs, output_hidden_states=True).hidden_states
    found = ours.embed_layers(inputs, range(ours.depth + 1))
    assert ours.depth == theirs.config.num_hidden_layers
    for layer, hidden in enumerate(expected[:-1]):
        close(found[layer], hidden)
    close(found[-1], ours.embed(inputs))
    if name != "modernbert_decoder":  # its classifier multiplies what its head makes of the last
        close(found[-1], expected[-1])
    last, first = ours.embed_layers(inputs, [ours.depth, 0])
    close(last, found[-1])
    close(first, found[0])


def test_the_stream_before_the_final_norm_leaves_the_last_block(both, name):
    theirs, ours = both(name)
    if not ARCHITECTURES[name].norm:
        with pytest.raises(UserError, match=f"^{name}: OPTForCausalLM has no layer before a"):
            ours.embed_layers(ids(2, 9), [PRENORM])
        return
    left = []
    if ARCHITECTURES[name].blocks:
        last = theirs.get_submodule(ARCHITECTURES[name].blocks)[-1]
        hook = last.register_forward_hook(
            lambda *call: left.append(call[-1][0] if isinstance(call[-1], tuple) else call[-1])
        )
    normed = theirs(ids(2, 9), output_hidden_states=True).hidden_states[-1]
    found, final = ours.embed_layers(ids(2, 9), [PRENORM, ours.depth])
    close(theirs.get_submodule(ARCHITECTURES[name].norm)(found), normed)
    close(final, ours.embed(ids(2, 9)))
    if ARCHITECTURES[name].blocks:
        hook.remove()
        close(found, left[0])


def test_all_layers_cost_one_pass_and_the_logits_of_one_position(both, name):
    ours = both(name)[1]
    layers = [*range(ours.depth + 1), *([PRENORM] if ARCHITECTURES[name].norm else [])]
    ours.embed_layers(ids(2, 9), layers)  # finds the final norm
    passes, shapes = [], []
    hooks = [
        ours.model.get_input_embeddings().register_forward_hook(lambda *_: passes.append(1)),
        ours.model.get_output_embeddings().register_forward_hook(
            lambda *call: shapes.append(call[-1].shape)
        ),
    ]
    ours.embed_layers(ids(2, 9), layers)
    ours.head(ours.embed(ids(2, 9)))  # a second pass: the head goes through no block
    for hook in hooks:
        hook.remove()
    assert len(passes) == 2
    assert shapes == [(2, 1, V), (2, 1, V), (1, 18, V)]


def test_later_tokens_change_no_earlier_embedding(both, name):
    ours = both(name)[1]
    inputs = ids(2, 9)
    changed = inputs.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % V
    before, after = ours.embed(inputs), ours.embed(changed)
    close(after[:, :5], before[:, :5])
    assert not torch.isclose(after[:, 5:], before[:, 5:]).all(2).any()


def test_padding_changes_nothing_of_what_is_real(both, name):
    ours = both(name)[1]
    inputs, lengths = ids(3, 11), [11, 4, 1]
    batch = Batch(inputs, inputs, torch.tensor(lengths), torch.zeros(3, dtype=torch.long))
    together = ours.embed_layers(batch, [1, ours.depth])
    for row, length in enumerate(lengths):
        alone = ours.embed_layers(inputs[row : row + 1, :length], [1, ours.depth])
        for found, expected in zip(together, alone, strict=True):
            close(found[row, :length], expected[0])


def test_weights_in_bfloat16_are_taken_as_they_are(both, name, tmp_path):
    # 8 bits of mantissa: logits of up to 40, once rounded after sums in another order.
    copy.deepcopy(both(name)[0]).to(torch.bfloat16).save_pretrained(tmp_path / name)
    ours = load_model(tmp_path / name)
    embeddings = ours.embed(ids(2, 9))
    assert ours.classifier.dtype == embeddings.dtype == torch.bfloat16
    logits = ours.model(ids(2, 9)).logits
    torch.testing.assert_close(ours.head(embeddings), logits, rtol=2**-7, atol=0.2)


def test_a_random_twin_is_of_the_same_kind_with_other_weights(both, name):
    ours = both(name)[1]
    before = {key: weight.clone() for key, weight in ours.state_dict().items()}
    generator = torch.random.get_rng_state()
    twin, again, other = (randomly_initialized(ours, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert twin.name == f"{name}-random"
    assert (twin.tied, twin.depth, twin.n_parameters) == (ours.tied, ours.depth, ours.n_parameters)
    assert not twin.training
    for key, weight in ours.state_dict().items():
        assert torch.equal(weight, before[key])
        assert twin.state_dict()[key].shape == weight.shape
        assert torch.equal(twin.state_dict()[key], again.state_dict()[key])
    # One number of the hundreds may be the same by chance.
    assert torch.isclose(twin.classifier, ours.classifier).double().mean() < 0.02
    assert not torch.isclose(twin.classifier, other.classifier).all()


def test_rows_longer_than_the_model_knows_are_refused_in_one_line(both, name):
    ours = both(name)[1]
    if name in ("bloom", "mamba"):  # these know no limit
        assert ours.embed(ids(1, POSITIONS + 1)).isfinite().all()
        return
    with pytest.raises(UserError, match=f"^rows of 25 positions are longer than the 24 .* {name}"):
        ours.embed(ids(1, POSITIONS + 1))
