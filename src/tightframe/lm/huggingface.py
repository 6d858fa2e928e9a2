"""Any causal language model of transformers behind our interface, without names of its layers.

The output layer is found by `get_output_embeddings`. Hooks read what goes into it (the embeddings)
and replace it (to compute logits with whatever the model does after the layer: a bias, a scale, a
soft-cap). A probe when the model is taken shows that both work for its architecture. The final
norm is found by what it does, when the stream before it is first asked for.

Axes: B rows, T positions, D embedding, V vocabulary.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.lm.interface import PRENORM, Batch, check_layers, check_positions

PROBE = 4  # tokens of the probe; any model has seen as many

# What configurations call the number of positions that a model knows, where it is limited.
_POSITIONS = ("max_position_embeddings", "max_seq_len")


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
        # All blocks, as one module and its output: the head needs no work of them.
        self._skipped: dict[tuple[torch.device, torch.dtype], tuple[nn.Module, Any]] = {}
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
    def architecture(self) -> str:
        """What transformers calls its kind, as "GPT2LMHeadModel"."""
        return type(self.model).__name__

    @property
    def positions(self) -> int | None:
        """How many positions it knows; None where it says of no limit."""
        config = self.model.config.get_text_config()
        return next((n for name in _POSITIONS if (n := getattr(config, name, None))), None)

    @property
    def tied(self) -> bool:
        """Whether the classifier is the token embedding."""
        return getattr(self.model.get_input_embeddings(), "weight", None) is self.classifier

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
        return [found[layer] for layer in layers]

    def head(self, embeddings: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Logits, with bias, scale and soft-cap as the model has them.

        The model runs on a single token without its blocks, and its output layer is given the
        embeddings instead.
        """
        given = embeddings.reshape(1, -1, embeddings.shape[-1]).to(self.classifier.dtype)
        with self._without_blocks(), self._at_output(lambda _: given):
            logits = self._run_token()
        return logits.view(*embeddings.shape[:-1], -1)

    def _finish(self, logits: Float[Tensor, "*N M"]) -> Float[Tensor, "*N M"]:
        """The model runs on a single token, and its output layer gives these instead."""
        given = logits.clone().reshape(1, -1, logits.shape[-1])
        with self._without_blocks(), _returning(self._output, given):
            return self._run_token().view(logits.shape)

    @contextmanager
    def _without_blocks(self) -> Iterator[None]:
        """While it lasts, a single token goes past the blocks: the head doesn't depend on them."""
        where = self.classifier.device, self.classifier.dtype
        if where not in self._skipped:
            self._skipped[where] = self._largest_before_output()
        with _returning(*self._skipped[where]):
            yield

    def _run_token(self) -> Tensor:
        token = torch.zeros(1, 1, dtype=torch.long, device=self.classifier.device)
        logits: Tensor = self.model(input_ids=token, use_cache=False).logits
        return logits

    @torch.inference_mode(False)
    @torch.no_grad()
    def _largest_before_output(self) -> tuple[nn.Module, Any]:
        """The module of most parameters that ends before the output layer, and what it gives."""
        with _calls(self.model) as calls:
            self._run_token()
        end = [module for module, *_ in calls].index(self._output)
        module, *_, made = max(
            calls[:end], key=lambda call: sum(weight.numel() for weight in call[0].parameters())
        )
        return module, made

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
        check_positions(batch.inputs.shape[1], self.positions, name=self.name)
        return batch

    @torch.no_grad()
    def _probe(self) -> None:
        """Refuse a model whose head is not its own, or that sees later tokens."""
        tokens = self._probe_tokens
        embeddings, output = self._run(tokens, output_hidden_states=True)
        # Of a model that gives no hidden states there are two layers: the first and the last.
        self.depth = max(1, len(_hidden_states(output)) - 1)
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

    @property
    def _probe_tokens(self) -> Int[Tensor, "1 T"]:
        classifier = self.classifier
        return torch.arange(PROBE, device=classifier.device).remainder(len(classifier))[None]

    @cached_property
    @torch.no_grad()
    def _final_norm(self) -> nn.Module:
        """The module that turns the residual stream into the last hidden state.

        It is the innermost one whose output is the last hidden state and whose input is of the
        same shape but may have any length: a block adds to its input, a norm does not.
        """
        with _calls(self.model) as calls:
            _, output = self._run(self._probe_tokens, output_hidden_states=True)
        last = _hidden_states(output)[-1:]
        for module, given, options, made in calls:  # inner modules end before outer ones
            if len(given) != 1 or options or not isinstance(given[0], Tensor):
                continue
            if last and _same(last[0], made) and not _same(given[0], made):
                if given[0].shape != made.shape or not _is_norm(module, given[0]):
                    break
                return module
        raise UserError(
            f"{self.name}: {type(self.model).__name__} has no layer before a final norm, because "
            "its last hidden state is not made by one; choose other layers"
        )

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
        from transformers.utils import logging as their_logging
    except ImportError:
        raise UserError(
            f"{path_or_name}: needs transformers; run `pip install 'tightframe[hf]'`"
        ) from None
    verbosity = their_logging.get_verbosity()
    # Tensors that are missing are told of below, in one line; and no bar off a terminal.
    their_logging.set_verbosity(logging.ERROR)
    bars = their_logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        their_logging.disable_progress_bar()
    silent = not Path(path_or_name).exists() and hub.unreachable()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path_or_name,
            dtype=dtype or "auto",
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            local_files_only=silent,
            adapter_kwargs={"local_files_only": silent},  # asked for first where peft is installed
            output_loading_info=True,
        )
    except Exception as error:  # whatever the network, the hub, the files or their code may raise
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise UserError(
                f"{path_or_name}: brings Python code of its own, which is not run; read it, and "
                "give --trust-remote-code if you trust it"
            ) from None
        raise UserError(
            f"{path_or_name}: transformers can't load this as a causal language model "
            f"({type(error).__name__}: {reason})"
        ) from None
    finally:
        their_logging.set_verbosity(verbosity)
        if bars:
            their_logging.enable_progress_bar()
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{path_or_name}: lacks {len(missing)} of the model's tensors, first {missing[0]}; "
            "the checkpoint is incomplete, or not of a causal language model"
        )
    path = Path(path_or_name)
    return HuggingFaceModel(model, name=(path.resolve() if path.exists() else path).name)


def _close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for the rounding of another order of sums, in the dtype's precision."""
    tolerance = torch.finfo(theirs.dtype).eps ** 0.5 * float(theirs.abs().max())
    return torch.allclose(ours, theirs, rtol=0, atol=tolerance)


def _hidden_states(output: Any) -> tuple[Tensor, ...]:
    """Of all layers, as a model of transformers returns them when asked; () if it never does."""
    return getattr(output, "hidden_states", None) or ()


def _same(first: Tensor, second: Any) -> bool:
    alike = isinstance(second, Tensor) and first.dtype == second.dtype
    return alike and torch.equal(first, second)


def _is_norm(module: nn.Module, stream: Tensor) -> bool:
    """Whether the module's output is the same for a longer input."""
    large = stream * (1024 / stream.abs().amax())  # so that the norm's epsilon doesn't matter
    return _close(module(2 * large), module(large))


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[tuple[nn.Module, Any, Any, Any]]]:
    """Module, arguments, named arguments and output of every call, in the order of their ends."""
    calls: list[tuple[nn.Module, Any, Any, Any]] = []
    with ExitStack() as hooks:
        for module in model.modules():
            hook = module.register_forward_hook(lambda *call: calls.append(call), with_kwargs=True)
            hooks.callback(hook.remove)
        yield calls


@contextmanager
def _returning(module: nn.Module, value: Any) -> Iterator[None]:
    """While it lasts, calling the module gives `value` and does no work; its hooks still run."""
    attributes = vars(module)
    before = {"forward": attributes["forward"]} if "forward" in attributes else {}
    attributes["forward"] = lambda *_, **__: value  # hides the method of the class
    try:
        yield
    finally:
        del attributes["forward"]
        attributes.update(before)
