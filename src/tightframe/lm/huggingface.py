"""Any causal language model of transformers behind our interface, without names of its layers.

The output layer is found by `get_output_embeddings`. Hooks read what goes into it (the embeddings)
and replace it (to compute logits with whatever the model does after the layer: a bias, a scale, a
soft-cap). A probe when the model is taken shows that both work for its architecture.

Axes: B rows, T positions, D embedding, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.lm.interface import Batch

PROBE = 4  # tokens of the probe; any model has seen as many


class HuggingFaceModel(nn.Module):
    """A causal language model of transformers.

    Args:
        model: As `AutoModelForCausalLM.from_pretrained` gives it.
        name: What results call it.
    """

    def __init__(self, model: Any, *, name: str):
        super().__init__()
        self.model = model.eval()
        self.name = name
        if not isinstance(getattr(model.get_output_embeddings(), "weight", None), Tensor):
            raise self._unsupported("it has no output layer")
        # As LanguageModel has it: what is done to logits after the output layer, if anything is.
        self.finish: Callable[[Tensor], Tensor] | None = self._finish
        self._probe()

    @property
    def classifier(self) -> Float[Tensor, "V D"]:
        """The output matrix, a row a token; the parameter itself."""
        weight: Tensor = self._output.weight
        return weight

    @property
    def bias(self) -> Float[Tensor, " V"] | None:
        """Added to the logits, if the output layer has one."""
        bias: Tensor | None = getattr(self._output, "bias", None)
        return bias

    @property
    def n_parameters(self) -> int:
        """Numbers that are trained; a tied classifier counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def embed(self, batch: Batch | Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The vectors that the classifier multiplies, after the final norm."""
        embeddings, _ = self._run(batch)
        return embeddings

    def embed_layers(
        self, batch: Batch | Int[Tensor, "B T"], layers: Sequence[int]
    ) -> list[Float[Tensor, "B T D"]]:
        """The embeddings at some layers, in the order asked for.

        Layer 0 is the input embedding, layer i the residual stream after block i, and the last
        is what `embed` gives, after the final norm: the numbers of `output_hidden_states`.
        """
        embeddings, output = self._run(batch, output_hidden_states=True)
        found = [*output.hidden_states[:-1], embeddings]
        if not all(0 <= layer < len(found) for layer in layers):
            raise ValueError(f"layers must lie in [0, {len(found) - 1}], got {list(layers)}")
        return [found[layer] for layer in layers]

    def head(self, embeddings: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Logits, with bias, scale and soft-cap as the model has them.

        The model runs on a single token, and its output layer is given the embeddings instead.
        """
        given = embeddings.reshape(1, -1, embeddings.shape[-1]).to(self.classifier.dtype)
        token = torch.zeros(1, 1, dtype=torch.long, device=given.device)
        with self._at_output(lambda _: given):
            logits: Tensor = self.model(input_ids=token, use_cache=False).logits
        return logits.view(*embeddings.shape[:-1], -1)

    def _finish(self, logits: Float[Tensor, "*N M"]) -> Float[Tensor, "*N M"]:
        """The model runs on a single token, and its output layer gives these instead."""
        given = logits.reshape(1, -1, logits.shape[-1])
        token = torch.zeros(1, 1, dtype=torch.long, device=given.device)
        hook = self._output.register_forward_hook(lambda *_: given)
        try:
            finished: Tensor = self.model(input_ids=token, use_cache=False).logits
        finally:
            hook.remove()
        return finished.view(logits.shape).clone()

    @property
    def _output(self) -> Any:
        return self.model.get_output_embeddings()

    def _run(self, batch: Batch | Int[Tensor, "B T"], **options: Any) -> tuple[Tensor, Any]:
        """Embeddings and the model's own output, whose logits are those of the first position."""
        batch = self._checked(batch)
        found: list[Tensor] = []

        def keep(embeddings: Tensor) -> Tensor:
            found.append(embeddings)
            return embeddings[:, :1]  # logits of all positions would cost time and B * T * V memory

        place = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
        with self._at_output(keep):
            output = self.model(
                input_ids=batch.inputs,
                attention_mask=(place < batch.lengths[:, None]).long(),
                use_cache=False,
                **options,
            )
        if len(found) != 1 or found[0].shape[:2] != batch.inputs.shape:
            raise self._unsupported("its output layer is not called once with all positions")
        return found[0], output

    @contextmanager
    def _at_output(self, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
        hook = self._output.register_forward_pre_hook(lambda _, given: (replace(given[0]),))
        try:
            yield
        finally:
            hook.remove()

    def _checked(self, batch: Batch | Int[Tensor, "B T"]) -> Batch:
        if isinstance(batch, Tensor):
            batch = Batch.causal(batch)
        if batch.source is not None or bool((batch.prefix > 1).any()):
            raise ValueError(f"{self.name} is causal; expected a batch without prefix and source")
        known = getattr(self.model.config, "max_position_embeddings", None)
        if known is not None and batch.inputs.shape[1] > known:
            raise UserError(
                f"rows of {batch.inputs.shape[1]} positions are longer than the {known} of model "
                f"{self.name}; cut the text into shorter blocks"
            )
        return batch

    @torch.no_grad()
    def _probe(self) -> None:
        """Refuse a model whose head is not its own, or that sees later tokens."""
        classifier = self.classifier
        tokens = torch.arange(PROBE, device=classifier.device).remainder(len(classifier))[None]
        embeddings = self.embed(tokens)
        made: list[Tensor] = []
        hook = self._output.register_forward_hook(lambda _, __, logits: made.append(logits))
        logits = self.model(input_ids=tokens, use_cache=False).logits
        hook.remove()
        if not _close(self.head(embeddings), logits):
            raise self._unsupported("its logits are not made from the input of its output layer")
        if torch.equal(made[0].to(logits), logits):
            self.finish = None
        tokens[0, -1] = 0
        if not _close(self.embed(tokens)[:, :-1], embeddings[:, :-1]):
            raise self._unsupported("its embeddings change with later tokens, so it is not causal")

    def _unsupported(self, reason: str) -> UserError:
        return UserError(f"{self.name}: {type(self.model).__name__} can't be used: {reason}")


def load_huggingface(
    path_or_name: str, *, dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> HuggingFaceModel:
    """A model of a local folder or of the Hugging Face hub, from safetensors only.

    Args:
        path_or_name: A folder with config.json, or a hub name.
        dtype: Of the weights; by default as they were stored.
        trust_remote_code: Run Python code that comes with the model.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise UserError(
            f"{path_or_name}: needs transformers; run `pip install 'tightframe[hf]'`"
        ) from None
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path_or_name,
            dtype=dtype or "auto",
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            local_files_only=not Path(path_or_name).exists() and hub.unreachable(),
            output_loading_info=True,
        )
    except Exception as error:  # whatever the network, the hub, the files or their code may raise
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(
            f"{path_or_name}: transformers can't load this as a causal language model "
            f"({type(error).__name__}: {reason})"
        ) from None
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{path_or_name}: lacks {len(missing)} of the model's tensors, first {missing[0]}; "
            "the checkpoint is incomplete"
        )
    path = Path(path_or_name)
    return HuggingFaceModel(model, name=(path.resolve() if path.exists() else path).name)


def _close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for the rounding of another order of sums, in the dtype's precision."""
    tolerance = torch.finfo(theirs.dtype).eps ** 0.5 * float(theirs.abs().max())
    return torch.allclose(ours, theirs, rtol=0, atol=tolerance)
