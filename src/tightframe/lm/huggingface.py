"""Any causal language model of transformers behind our interface, without names of its layers.

The output layer is found by `get_output_embeddings`. Hooks read what goes into it (the embeddings)
and replace it (to compute logits with whatever the model does after the layer: a bias, a scale, a
soft-cap). A probe when the model is taken shows that both work for its architecture. The final
norm is found by what it does, when the stream before it is first asked for.

Axes: B rows, T positions, D embedding, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.lm.boundaries import constant_layers, is_divided, lost_on_the_way, tied_names
from tightframe.lm.described import POSITIONS
from tightframe.lm.frozen import PositionTables, module_calls, returning
from tightframe.lm.interface import PRENORM, Batch, check_layers, check_positions

PROBE = 4  # tokens of the probe, which is repeated with MORE; any model has seen as many
MORE = 3


class HuggingFaceModel(nn.Module):
    """A causal language model of transformers.

    Args:
        model: A model such as `AutoModelForCausalLM.from_pretrained` returns.
        name: Its name in results.
    """

    def __init__(self, model: Any, *, name: str):
        super().__init__()
        self.model = model.eval()
        self.name = name
        if not isinstance(getattr(model.get_output_embeddings(), "weight", None), Tensor):
            raise self._unsupported("it has no output layer")
        if self._output.weight.is_meta:
            raise self._unsupported("its output layer is not in memory; load it with device_map")
        # As LanguageModel has it: what is done to logits after the output layer, if anything is.
        self.finish: Callable[[Tensor], Tensor] | None = self._finish
        # All blocks, as one module and its output: the head needs no work of them.
        self._skipped: dict[tuple[torch.device, torch.dtype], tuple[nn.Module, Any]] = {}
        self.positions = self._described_positions
        self._probe()

    @property
    def classifier(self) -> Float[Tensor, "V D"]:
        """The output matrix, one row per token: the parameter itself, unless peft adapts it.

        These are added to the parameter whenever the matrix is asked for, as they may be training.
        """
        return _with_adapters(self._output)

    @property
    def bias(self) -> Float[Tensor, " V"] | None:
        """The bias that is added to the logits, if the output layer has one."""
        bias: Tensor | None = getattr(self._output, "bias", None)
        return bias

    @property
    def architecture(self) -> str:
        """Class of the model in transformers, such as "GPT2LMHeadModel"."""
        return type(self.model).__name__

    @property
    def tied(self) -> bool:
        """True if the classifier is the token embedding."""
        if tied := tied_names(self):
            names = [name for name, module in self.named_modules() if module is self._output]
            return any(f"{name}.weight" in tied for name in names)
        return getattr(self.model.get_input_embeddings(), "weight", None) is self.classifier

    @property
    def n_parameters(self) -> int:
        """Number of parameters; a tied classifier counts once."""
        tied = tied_names(self)
        return sum(one.numel() for name, one in self.named_parameters() if name not in tied)

    def embed(self, batch: Batch | Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Return the vectors that the classifier multiplies, after the final norm."""
        embeddings, _ = self._run(batch)
        return embeddings

    def embed_layers(
        self, batch: Batch | Int[Tensor, "B T"], layers: Sequence[int]
    ) -> list[Float[Tensor, "B T D"]]:
        """Return the embeddings at some layers, in their order.

        Layer 0 is the input embedding, layer i the residual stream after block i, and the last
        (`depth`) is what `embed` gives, after the final norm: the numbers of
        `output_hidden_states`. The stream before the final norm is PRENORM.
        """
        check_layers(layers, self.depth)
        found: dict[int, Tensor] = {}
        within = any(0 <= layer < self.depth for layer in layers)
        with ExitStack() as hooks:
            if PRENORM in layers:
                keep = self._final_norm.register_forward_pre_hook(
                    lambda _, given: found.update({PRENORM: given[0]})
                )
                hooks.callback(keep.remove)
            found[self.depth], output = self._run(
                batch, **({"output_hidden_states": True} if within else {})
            )
        if within:
            found |= enumerate(_hidden_states(output)[: self.depth])
        if missing := [layer for layer in layers if layer not in found]:
            raise UserError(
                f"{self.name}: {type(self.model).__name__} gives no hidden states, so it has no "
                f"layer {missing[0]}; its last one is {self.depth}"
            )
        if several := [layer for layer in layers if found[layer].ndim != 3]:
            raise UserError(
                f"{self.name}: {type(self.model).__name__} has several residual streams at layer "
                f"{several[0]}, so that no one vector is its embedding; choose layer {self.depth}"
            )
        return [found[layer].to(self.classifier.device) for layer in layers]

    def head(self, embeddings: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Return the logits, with bias, scale and soft-cap as the model has them.

        The model runs on a single token without its blocks, and its output layer is given the
        embeddings instead.
        """
        given = embeddings.reshape(1, -1, embeddings.shape[-1]).to(self.classifier.dtype)
        with self._without_blocks(), self._at_output(lambda _: given):
            logits = self._run_token()
        return logits.view(*embeddings.shape[:-1], -1)

    def _finish(self, logits: Float[Tensor, "*N M"]) -> Float[Tensor, "*N M"]:
        """Return what the model does to the logits that its output layer gives."""
        given = logits.clone().reshape(1, -1, logits.shape[-1])
        with self._without_blocks(), returning(self._output, given):
            return self._run_token().view(logits.shape)

    @contextmanager
    def _without_blocks(self) -> Iterator[None]:
        """Let a single token go past the blocks meanwhile: the head doesn't depend on them."""
        where = self.classifier.device, self.classifier.dtype
        if where not in self._skipped:
            self._skipped[where] = self._largest_before_output()
        with returning(*self._skipped[where]):
            yield

    def _run_token(self) -> Tensor:
        token = torch.zeros(1, 1, dtype=torch.long, device=self.classifier.device)
        logits: Tensor = self._forward(token).logits
        return logits

    def _forward(self, tokens: Int[Tensor, "B T"], **options: Any) -> Any:
        """Return the model's own output; whatever its code may raise is one line."""
        try:
            return self.model(input_ids=tokens, use_cache=False, return_dict=True, **options)
        except UserError:
            raise
        except Exception as error:
            raise self._unsupported(
                f"its forward pass fails on {tokens.shape[1]} tokens ({hub.reason(error)})"
            ) from error

    @torch.inference_mode(False)
    @torch.no_grad()
    def _largest_before_output(self) -> tuple[nn.Module, Any]:
        """Return the largest module that ends before the output layer, and its output."""
        with module_calls(self.model) as calls:
            self._run_token()
        inside = set(self._output.modules())  # of a layer with adapters there are several
        end = next(i for i, (module, *_) in enumerate(calls) if module in inside)
        module, *_, made = max(
            calls[:end], key=lambda call: sum(weight.numel() for weight in call[0].parameters())
        )
        return module, made

    @property
    def _output(self) -> Any:
        return self.model.get_output_embeddings()

    def _run(self, batch: Batch | Int[Tensor, "B T"], **options: Any) -> tuple[Tensor, Any]:
        """Return embeddings and the model's own output, with logits of the first position only."""
        batch = self._checked(batch)
        found: list[Tensor] = []

        def keep(embeddings: Tensor) -> Tensor:
            found.append(embeddings)
            return embeddings[:, :1]  # logits of all positions would cost time and B * T * V memory

        place = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
        with self._at_output(keep):
            visible = (place < batch.lengths[:, None]).long()
            output = self._forward(batch.inputs, attention_mask=visible, **options)
        if len(found) != 1 or found[0].shape[:2] != batch.inputs.shape:
            raise self._unsupported("its output layer is not called once with all positions")
        return found[0].to(self.classifier.device), output

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
        check_positions(batch.inputs.shape[1], self.positions, name=self.name)
        return batch

    @torch.no_grad()
    def _probe(self) -> None:
        """Refuse a model whose head is not its own, that sees later tokens or is not finite."""
        tokens = self._probe_tokens
        if is_divided(self.model):
            self._check_boundaries(tokens)
        first, later = tokens[:, :PROBE], torch.cat((tokens[:, : PROBE - 1], tokens[:, PROBE:]), 1)
        with PositionTables(self.model, PROBE) as tables:
            embeddings, output = self._run(first, output_hidden_states=True)
        # Of a model that gives no hidden states there are two layers: the first and the last.
        self.depth = max(1, len(_hidden_states(output)) - 1)
        made: list[Tensor] = []
        hook = self._output.register_forward_hook(lambda _, __, logits: made.append(logits))
        logits = self._forward(first).logits
        hook.remove()
        self._check_finite(logits)
        if not is_close(self.head(embeddings), logits):
            raise self._unsupported("its logits are not made from the input of its output layer")
        self._check_classifier(embeddings, made[0])
        if torch.equal(made[0].to(logits), logits):
            self.finish = None
        with PositionTables(self.model, later.shape[1]) as others:
            again = self.embed(later)
        if not is_close(again[:, : PROBE - 1], embeddings[:, :-1]):
            raise self._unsupported("its embeddings change with later tokens, so it is not causal")
        known = [n for _, n in tables.limits & others.limits]
        self.positions = min([*known, *filter(None, [self.positions])], default=None)

    def _check_boundaries(self, tokens: Int[Tensor, "1 T"]) -> None:
        """Refuse a divided model that loses numbers where they go from one device to another."""
        with lost_on_the_way(self.model) as lost:
            output = self._forward(tokens, output_hidden_states=True)
        same = constant_layers(_hidden_states(output))
        if lost or same or constant_layers([output.logits]):
            what = f"what goes into or out of {lost[0] or 'it'}" if lost else "its hidden states"
            where = f" at layer {same[0]}" if same and not lost else ""
            raise self._unsupported(
                f"{what}{where} is lost between devices; choose another --device-map, or --device"
            )

    @property
    def _described_positions(self) -> int | None:
        """Number of positions in the configuration; None where it says of no limit."""
        config = self.model.config.get_text_config()
        named = (getattr(config, name, None) for name in POSITIONS)
        return next((n for n in named if n is not None and n > 0), None)

    @property
    def _probe_tokens(self) -> Int[Tensor, "1 T"]:
        """Tokens that are no padding and not consecutive, as positions are."""
        padding = getattr(self.model.config.get_text_config(), "pad_token_id", None)
        n_rows, n = (
            len(self.classifier),
            PROBE + min(MORE, (self.positions or PROBE + MORE) - PROBE + 1),
        )
        tokens = [token for token in range(n_rows) if token != padding][: PROBE + MORE]
        tokens = (tokens[::-1] * n)[:n]
        return torch.tensor(tokens, device=self.classifier.device)[None]

    def _check_finite(self, logits: Float[Tensor, "B T V"]) -> None:
        if bool(logits.isfinite().all()):
            return
        parameters = self.model.named_parameters()
        wrong = next((name for name, values in parameters if not values.isfinite().all()), None)
        where = f", nor is its tensor {wrong}" if wrong else ""
        raise UserError(
            f"model {self.name}: its logits are not finite{where}; did training diverge, or "
            "float16 overflow?"
        )

    def _check_classifier(self, embeddings: Tensor, made: Tensor) -> None:
        """Refuse an output layer that is not one matrix: NC3 would be of another function."""
        matrix = self.classifier
        fits = matrix.is_floating_point() and matrix.shape == (made.shape[-1], embeddings.shape[-1])
        if not fits or not is_close(F.linear(embeddings, matrix, self.bias), made):
            raise self._unsupported(
                f"its output layer ({type(self._output).__name__}) is not its matrix of weights; "
                "merge its adapters (merge_and_unload of peft), or load it without quantization"
            )

    @cached_property
    @torch.no_grad()
    def _final_norm(self) -> nn.Module:
        """Module that turns the residual stream into the last hidden state, or the embeddings.

        It is the innermost one whose output they are and whose input is of the same shape but may
        have any length: a block adds to its input, a norm does not. Where the last hidden state is
        the stream itself (`tie_last_hidden_states` is false), the embeddings are the norm's.
        """
        with module_calls(self.model) as calls:
            embeddings, output = self._run(self._probe_tokens[:, :PROBE], output_hidden_states=True)
        last = _hidden_states(output)[-1:]
        norm = _norm_before(last[0], calls) if last else None
        if norm is None and last:
            norm = _norm_before(embeddings, calls, given=last[0])
        if norm is None:
            raise UserError(
                f"{self.name}: {type(self.model).__name__} has no layer before a final norm, "
                "because its last hidden state is not made by one; choose other layers"
            )
        return norm

    def _unsupported(self, reason: str) -> UserError:
        return UserError(f"{self.name}: {type(self.model).__name__} can't be used: {reason}")


def is_close(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding in the dtype's precision."""
    tolerance = torch.finfo(theirs.dtype).eps ** 0.5 * float(theirs.abs().max())
    return torch.allclose(ours, theirs, rtol=0, atol=tolerance)


def _hidden_states(output: Any) -> tuple[Tensor, ...]:
    """Return the hidden states of all layers in a model's output; () if it gives none."""
    return tuple(getattr(output, "hidden_states", None) or ())


def _same(first: Tensor, second: Any) -> bool:
    alike = isinstance(second, Tensor) and first.dtype == second.dtype
    return alike and torch.equal(first, second)


def _norm_before(
    normed: Tensor, calls: Sequence[tuple[nn.Module, Any, Any, Any]], given: Tensor | None = None
) -> nn.Module | None:
    """Return the norm of one argument that made a tensor, from what was `given` if that is told."""
    for module, (*arguments,), options, made in calls:  # inner modules end before outer ones
        if len(arguments) != 1 or options or not isinstance(arguments[0], Tensor):
            continue
        stream = arguments[0]
        if not _same(normed, made) or _same(stream, made):
            continue
        if stream.shape != made.shape or not _is_norm(module, stream):
            return None
        return module if given is None or _same(given, stream) else None
    return None


@torch.no_grad()
def _with_adapters(layer: Any) -> Tensor:
    """Return the layer's matrix, with those of LoRA that are added to its product."""
    matrix: Tensor = layer.weight
    if not hasattr(layer, "lora_A") or layer.disable_adapters:
        return matrix
    for name in layer.active_adapters:
        if name in layer.lora_A and name not in layer.merged_adapters:
            matrix = (matrix + layer.get_delta_weight(name)).to(layer.weight.dtype)
    return matrix


def _is_norm(module: nn.Module, stream: Tensor) -> bool:
    """Return whether the module's output is the same for a longer input."""
    large = stream * (1024 / stream.abs().amax())  # so that the norm's epsilon doesn't matter
    return is_close(module(2 * large), module(large))
