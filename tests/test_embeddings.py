import numpy as np
import pytest
import scipy.sparse as sp
import torch

import tiny_models
from tightframe.errors import UserError
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tightframe.ntp.model import collect
from tightframe.ntp.table import PAD, ContextTable

VOCAB, POSITIONS = 23, 6


def table_of(contexts, tokens=VOCAB):
    """Every context is followed by the first token: embeddings do not depend on it."""
    contexts = np.array(contexts, dtype=np.int32)
    tokens = np.arange(tokens) if isinstance(tokens, int) else np.array(tokens)
    counts = np.zeros((len(contexts), len(tokens)), dtype=np.int64)
    counts[:, 0] = 1
    return ContextTable(contexts, sp.csr_array(counts), tokens)


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(
        vocab_size=VOCAB, width=8, depth=2, heads=2, positions=POSITIONS, tied=False
    )
    model = Transformer(config, seed=1, name="tiny")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(0)
            )
    return model


CONTEXTS = [[PAD, PAD, 3], [1, 2, 3], [PAD, 2, 3], [4, 5, 6], [PAD, PAD, 7], [2, 2, 2]]


@torch.no_grad()
def logits_of(model, row):
    ids = torch.tensor([row])
    if isinstance(model, HuggingFaceModel):
        return model.model(ids).logits[0, -1].double().numpy()
    return model.head(model.embed(ids))[0, -1].double().numpy()


@pytest.mark.parametrize("batch_tokens", [1, 7, 8192])
def test_every_context_is_read_as_it_is_by_itself(model, batch_tokens):
    found = collect(model, table_of(CONTEXTS), batch_tokens=batch_tokens)
    for context, row in enumerate(CONTEXTS):
        alone = model.embed(torch.tensor([[token for token in row if token != PAD]]))[0, -1]
        assert found.embeddings[context] == pytest.approx(alone.detach().numpy(), abs=1e-6)
    assert np.array_equal(found.classifier, model.classifier.detach().numpy())
    assert found.bias is None
    assert not found.outside.any()  # the table has all tokens


# A bias, a soft-cap, a scale, a tied classifier, a recurrent model.
@pytest.mark.parametrize("name", ["phi", "gemma2", "cohere", "gpt2", "mamba"])
def test_logits_and_loss_are_those_of_any_causal_model(name):
    model = HuggingFaceModel(tiny_models.model_of(name), name=name).eval()
    tokens = [30, 2, 5, 17]
    found = collect(model, table_of(CONTEXTS, tokens))
    logits = found.embeddings @ found.classifier.T
    if found.bias is not None:
        logits += found.bias
    if found.finish is not None:
        logits = found.finish(logits)
    assert (found.bias is not None) == (name == "phi")
    assert (found.finish is not None) == (name in ("gemma2", "cohere"))
    for context, row in enumerate(CONTEXTS):
        theirs = logits_of(model, [token for token in row if token != PAD])
        assert logits[context] == pytest.approx(theirs[tokens], abs=1e-4)
        share = np.exp(theirs[tokens]).sum() / np.exp(theirs).sum()
        assert found.outside[context] == pytest.approx(-np.log(share), abs=1e-4)


def test_a_first_token_is_put_before_contexts_that_have_it_not(model):
    found = collect(model, table_of([[1, 2, 3], [9, 2, 3], [PAD, 2, 3]]), bos=9)
    expected = [[9, 1, 2, 3], [9, 2, 3], [9, 2, 3]]
    for context, row in enumerate(expected):
        alone = model.embed(torch.tensor([row]))[0, -1]
        assert found.embeddings[context] == pytest.approx(alone.detach().numpy(), abs=1e-6)


def test_a_model_in_training_is_left_as_it_was(model):
    model.train()
    collect(model, table_of(CONTEXTS))
    assert model.training
    model.eval()


def test_progress_ends_with_all_contexts(model):
    seen = []
    collect(model, table_of(CONTEXTS), progress=lambda done, all_: seen.append((done, all_)))
    assert seen[-1] == (6, 6)
    assert seen == sorted(seen)


def refused(model, table, message, error=UserError, **options):
    with pytest.raises(error, match=message):
        collect(model, table, **options)


def test_tokens_that_the_model_does_not_know_are_refused(model):
    refused(model, table_of([[1, 2, 99]]), "tiny knows 23 tokens, but the table has token 99; make")
    refused(model, table_of([[1, 2, 3]], [0, 50]), "knows 23 tokens, but the table has token 50")
    refused(model, table_of([[1, 2, 3]]), "has token 23;", bos=23)


def test_contexts_longer_than_the_model_s_positions_are_refused(model):
    long = table_of([[1, 2, 3, 4, 5, 6]])
    assert len(collect(model, long).embeddings) == 1
    # One more by the token that is put before it.
    refused(model, long, "a context of the table has 7 tokens, but model tiny has 6 pos", bos=9)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ([[1, 2], [PAD, PAD]], "contexts: context 1 has no token"),
        ([[1, 2, 3], [1, PAD, 3]], r"contexts: context 1 has PAD \(-1\) right of a token"),
        ([[1, 2], [2, 1], [1, 2]], "contexts: context 2 is context 0 again; merge them"),
    ],
)
def test_contexts_that_are_none_are_refused_by_number(model, contexts, message):
    refused(model, table_of(contexts), message, ValueError)


def test_embeddings_that_are_not_finite_are_refused_with_their_context(model):
    broken = Transformer(model.config, seed=1, name="broken")
    with torch.no_grad():
        broken.token_embedding[4] = torch.nan
    refused(broken, table_of(CONTEXTS), "model broken: the embedding of context 3 is not finite")
    refused(
        Spoiled(model), table_of([[1, 2, 3]]), "model tiny: the classifier row of token 5 is not"
    )


class Spoiled:
    """A model whose classifier alone is broken."""

    def __init__(self, model):
        self.name, self.bias, self.embed, self.head = "tiny", None, model.embed, model.head
        self.depth, self.embed_layers = model.depth, model.embed_layers
        self.classifier = model.classifier.detach().clone()
        self.classifier[5] = torch.inf
