import numpy as np
import pytest
import torch

from reference.moments import naive_choices, naive_moments
from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.geometry.decisions import class_decisions
from tightframe.geometry.labels import NEXT, LabelSpec
from tightframe.geometry.stream import class_moments
from tightframe.lm.interface import next_token
from tightframe.lm.load import load_model
from tightframe.lm.loss import evaluate
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tiny_tokens import write_tokens

VOCAB, BLOCK = 23, 9
CONFIG = TransformerConfig(vocab_size=VOCAB, width=8, depth=1, heads=2, positions=BLOCK)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = write_tokens(tmp_path_factory.mktemp("tokens") / "x", vocab_size=VOCAB, block=BLOCK)
    return TokenShards.open(path)


@pytest.fixture
def model():
    model = Transformer(CONFIG, seed=1)
    with torch.no_grad():
        model.token_embedding *= 30  # so that the losses differ from position to position
    return model


def labelled_embeddings(model, split):
    """Embeddings and next tokens of every block by itself, cut to its length."""
    embeddings, labels = [], []
    for tokens, length in zip(*split.rows(range(split.n_blocks)), strict=True):
        row = tokens[:length]
        with torch.no_grad():
            embeddings.append(model.embed(row[None, :-1])[0])
        labels.append(row[1:])
    return torch.cat(embeddings), torch.cat(labels)


def assert_same(moments, embeddings, labels):
    counts, means, within_ss, scatter, balanced = naive_moments(embeddings, labels, VOCAB)
    # The forward pass of a batch rounds otherwise than that of a row: float32's error, here.
    np.testing.assert_array_equal(moments.counts, counts)
    np.testing.assert_allclose(moments.means, means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.within_ss, within_ss, rtol=1e-5, atol=1e-6)
    if moments.scatter is not None:
        np.testing.assert_allclose(moments.scatter, scatter, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(moments.balanced_scatter, balanced, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scatter", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
def test_one_pass_over_a_split_gives_the_moments_of_all_its_positions(
    tokens, model, batch_tokens, scatter
):
    split = tokens.split("train")
    moments = class_moments(model, split, batch_tokens=batch_tokens, scatter=scatter)
    assert_same(moments, *labelled_embeddings(model, split))
    assert moments.n == split.n_labels
    # Padding is ignored: every block has BLOCK - 1 positions.
    assert moments.ignored == split.n_blocks * (BLOCK - 1) - split.n_labels
    assert (moments.scatter is None) == (moments.balanced_scatter is None) == (not scatter)


@pytest.mark.parametrize("min_count", [1, 3])
@pytest.mark.parametrize("batch_tokens", [1, 20, 10_000])
def test_one_pass_over_validation_gives_loss_accuracy_and_agreement(
    tokens, model, batch_tokens, min_count
):
    moments = class_moments(model, tokens.split("train"))
    split = tokens.split("val")
    decisions = class_decisions(
        model, split, moments, min_count=min_count, batch_tokens=batch_tokens
    )
    embeddings, labels = labelled_embeddings(model, split)
    seen = (moments.counts >= min_count).numpy()
    assert 1 < seen.sum() < VOCAB or min_count == 1
    among_all, among_seen, nearest, losses = naive_choices(
        embeddings, labels.numpy(), model.classifier.detach(), None, moments.means.numpy(), seen
    )
    assert decisions.n == split.n_labels == len(labels)
    assert decisions.loss == pytest.approx(losses.mean(), rel=1e-5)
    assert decisions.accuracy == pytest.approx((among_all == labels.numpy()).mean())
    for c in range(VOCAB):
        here = labels.numpy() == c
        assert decisions.counts[c] == here.sum()
        assert decisions.nearest_hits[c] == (nearest == c)[here].sum()
        assert decisions.agreements[c] == (among_seen == nearest)[here & seen[labels]].sum()
        assert decisions.agreements_full[c] == (among_all == nearest)[here].sum()
        assert decisions.losses[c].item() == pytest.approx(losses[here].sum(), rel=1e-5)
    assert decisions.seen.tolist() == seen.tolist()


@pytest.mark.parametrize("reading", [LabelSpec(skip=3), LabelSpec(skip=1), NEXT])
def test_the_loss_is_of_all_predicted_positions_whatever_the_geometry_leaves_out(
    tokens, model, reading
):
    split = tokens.split("val")
    moments = class_moments(model, tokens.split("train"))
    decisions = class_decisions(model, split, moments, groups=3, reading=reading)
    whole, plain = evaluate(model, split), class_decisions(model, split, moments, groups=3)
    n_left = sum(max(0, int(length) - 1 - reading.skip) for length in split.rows(range(5))[1])
    assert (decisions.n, decisions.n + decisions.n_passed) == (n_left, whole.n)
    assert decisions.loss == pytest.approx(whole.loss, rel=1e-6)
    assert decisions.accuracy == pytest.approx(whole.accuracy)
    assert plain.n_passed == 0
    for group in range(3):
        one, other = decisions.without(group), plain.without(group)
        assert one.n + one.n_passed == other.n
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
        assert one.accuracy == pytest.approx(other.accuracy)
    if reading != NEXT:
        assert float(decisions.losses.sum()) / decisions.n != pytest.approx(whole.loss, rel=1e-3)


class Collapsed:
    """A model whose embedding is the classifier's row of the token that comes next, exactly."""

    name = "collapsed"
    bias = None
    depth = 0

    def __init__(self, classifier):
        self.classifier = classifier

    def embed(self, batch):
        return self.classifier[batch.targets.clamp(min=0)]

    def embed_layers(self, batch, layers):
        return [self.embed(batch) for _ in layers]

    def head(self, embeddings):
        return embeddings @ self.classifier.T


def test_a_collapsed_model_has_no_spread_and_agrees_everywhere(tokens):
    # One point a class: means are the rows, and the nearest mean is that of the label. With
    # orthogonal rows of norm 20 the classifier says the same, at no loss.
    model = Collapsed(torch.eye(VOCAB) * 20)
    moments = class_moments(model, tokens.split("train"))
    assert not moments.within_ss.any()
    seen = moments.seen()
    assert torch.equal(moments.means[seen], model.classifier.double()[seen])
    decisions = class_decisions(model, tokens.split("train"), moments)
    assert torch.equal(decisions.agreements_full, decisions.counts)
    assert torch.equal(decisions.nearest_hits, decisions.counts)
    assert decisions.accuracy == 1
    assert decisions.loss == pytest.approx(0, abs=1e-6)


class Remembering(Collapsed):
    """A model that keeps what a forward pass has made, as tables of rotary angles are kept."""

    kept = None

    def embed(self, batch):
        if self.kept is None:
            self.kept = torch.ones_like(self.classifier[0])
        return super().embed(batch) * self.kept


def test_what_a_model_keeps_of_the_pass_serves_its_training(tokens):
    model = Remembering(torch.eye(VOCAB).requires_grad_())
    class_moments(model, tokens.split("val"))
    model.embed(next_token(*tokens.split("val").rows([0]))).sum().backward()
    assert model.classifier.grad is not None


def test_a_soft_cap_of_the_model_is_part_of_its_loss(tokens):
    # Capped at 1, the logits are 1 for the label and 0 for the 22 others.
    model = Collapsed(torch.eye(VOCAB) * 20)
    model.finish = lambda logits: logits.clamp(max=1)
    decisions = class_decisions(
        model, tokens.split("val"), class_moments(model, tokens.split("val"))
    )
    assert decisions.loss == pytest.approx(np.log(np.e + 22) - 1, rel=1e-6)
    assert decisions.accuracy == 1


def test_bfloat16_is_close_to_float32_and_not_the_same(tokens, model):
    exact = class_moments(model, tokens.split("train"))
    rounded = class_moments(model, tokens.split("train"), precision="bf16")
    assert torch.equal(exact.counts, rounded.counts)
    error = (exact.means - rounded.means).norm() / exact.means.norm()
    assert 1e-6 < error < 3e-2
    loss = class_decisions(model, tokens.split("val"), exact).loss
    assert class_decisions(
        model, tokens.split("val"), exact, precision="bf16"
    ).loss == pytest.approx(loss, rel=3e-2)


def test_a_model_is_measured_without_dropout_and_left_as_it_was(tokens):
    class Dropping(Transformer):
        def embed(self, batch):
            return torch.nn.functional.dropout(super().embed(batch), training=self.training)

    model, plain = Dropping(CONFIG), Transformer(CONFIG)
    moments = class_moments(model.train(), tokens.split("train"))
    assert torch.equal(moments.means, class_moments(plain, tokens.split("train")).means)
    assert model.training
    assert all(not p.requires_grad or p.grad is None for p in model.parameters())
    class_decisions(model.eval(), tokens.split("val"), moments)
    assert not model.training


def test_progress_ends_with_all_blocks(tokens, model):
    calls = []
    split = tokens.split("train")
    moments = class_moments(
        model, split, batch_tokens=5 * BLOCK, progress=lambda done, n: calls.append((done, n))
    )
    assert calls == [(5, 22), (10, 22), (15, 22), (20, 22), (22, 22)]
    class_decisions(
        model, tokens.split("val"), moments, progress=lambda done, n: calls.append((done, n))
    )
    assert calls[-1] == (5, 5)


def test_embeddings_that_are_not_finite_are_named_with_their_place(tokens, model):
    class Diverged(Transformer):
        def embed(self, batch):
            embeddings = super().embed(batch)
            embeddings[:, 2] = float("nan")
            return embeddings

    diverged = Diverged(CONFIG, name="diverged")
    for name in ("train", "val"):
        split = tokens.split(name)
        lengths = split.rows(range(split.n_blocks))[1]
        block = int((lengths > 3).nonzero()[0])  # the first that has a label at position 2
        expected = rf"model diverged: .* block {block}, position 2 of split '{name}' is not finite"
        with pytest.raises(UserError, match=expected):
            class_moments(diverged, split, batch_tokens=2 * BLOCK)
        with pytest.raises(UserError, match=expected):
            class_decisions(diverged, split, class_moments(model, tokens.split("train")))


def test_tokens_of_another_vocabulary_are_refused(tokens):
    small = Transformer(TransformerConfig(vocab_size=20, width=8, depth=1, heads=2, positions=9))
    with pytest.raises(UserError, match="knows 20 tokens, but the corpus has token 22; measure it"):
        class_moments(small, tokens.split("train"))


def test_a_tokenizer_may_have_ids_that_the_model_lacks_where_none_occurs(tmp_path):
    # The same rows by a tokenizer of 23 tokens, of which the last three don't occur.
    shards = TokenShards.open(write_tokens(tmp_path / "tokens", vocab_size=20))
    small = Transformer(TransformerConfig(vocab_size=20, width=8, depth=1, heads=2, positions=9))
    expected = class_moments(small, shards.split("train"), scatter=True)
    larger = TokenShards(shards.path, shards.manifest | {"vocab_size": 23})
    moments = class_moments(small, larger.split("train"), scatter=True)
    assert torch.equal(moments.counts, expected.counts)
    assert torch.equal(moments.means, expected.means)
    decisions = class_decisions(small, larger.split("val"), moments)
    assert decisions.loss == class_decisions(small, shards.split("val"), expected).loss


def test_a_padded_vocabulary_is_measured_on_the_real_ids(tokens):
    padded = Transformer(TransformerConfig(vocab_size=32, width=8, depth=1, heads=2, positions=9))
    moments = class_moments(padded, tokens.split("train"))
    assert moments.n_classes == VOCAB
    decisions = class_decisions(padded, tokens.split("val"), moments)
    embeddings, labels = labelled_embeddings(padded, tokens.split("val"))
    logits = padded.head(embeddings)  # the loss is that of the model, over all 32
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert decisions.loss == pytest.approx(expected, rel=1e-5)


def test_moments_of_another_model_are_refused(tokens, model):
    wide = Transformer(TransformerConfig(vocab_size=23, width=16, depth=1, heads=2, positions=9))
    with pytest.raises(ValueError, match=r"23 classes in 16 dimensions, but .* 23 and the model 8"):
        class_decisions(model, tokens.split("val"), class_moments(wide, tokens.split("train")))


@pytest.mark.parametrize("name", ["gemma2", "cohere"])
def test_the_loss_is_the_model_s_own_where_logits_are_capped_or_scaled(tokens, tmp_path, name):
    import transformers

    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
    }
    config = {
        "gemma2": lambda: transformers.Gemma2Config(
            **sizes, head_dim=8, final_logit_softcapping=0.5
        ),
        "cohere": lambda: transformers.CohereConfig(**sizes, logit_scale=0.25),
    }[name]()
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.manual_seed(0))
    theirs.save_pretrained(tmp_path / name)
    ours = load_model(tmp_path / name)
    train, val = tokens.split("train"), tokens.split("val")
    decisions = class_decisions(ours, val, class_moments(ours, train))
    losses = []
    for row, length in zip(*val.rows(range(val.n_blocks)), strict=True):
        with torch.no_grad():
            logits = theirs(row[None, : length - 1]).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits, row[1:length], reduction="none"))
    assert decisions.loss == pytest.approx(float(torch.cat(losses).double().mean()), rel=1e-5)


def test_moments_of_two_splits_are_merged(tokens, model):
    both = class_moments(model, tokens.split("train"))
    both.merge(class_moments(model, tokens.split("val")))
    assert both.n == tokens.split("train").n_labels + tokens.split("val").n_labels
    with pytest.raises(UserError, match="in both states"):
        moments = class_moments(model, tokens.split("val"))
        moments.merge(class_moments(model, tokens.split("val")))
