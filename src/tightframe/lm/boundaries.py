"""Models that accelerate divides among devices: every boundary is checked, every weight is found.

Numbers that go from one device to another have been lost without an error, so that hidden states
on later devices were zero. Accelerate moves what a module is given before its forward pass, and
lays weights that have no device into memory or files of its own.

Axes: B rows, T positions, D embedding.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_INNER = "_old_forward"  # what accelerate calls of a module, once its arguments were moved


def is_divided(model: nn.Module) -> bool:
    """Return whether accelerate moves what the modules of a model are given."""
    return any(_INNER in vars(module) for module in model.modules())


@contextmanager
def lost_on_the_way(model: nn.Module) -> Iterator[list[str]]:
    """Record the names of modules that get or return other numbers than were sent."""
    lost: list[str] = []
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if _INNER in vars(module):
                _watch(module, name, lost, hooks)
        yield lost


def _watch(module: nn.Module, name: str, lost: list[str], hooks: ExitStack) -> None:
    sent: list[list[Tensor]] = []
    inner = vars(module)[_INNER]

    def received(*arguments: Any, **options: Any) -> Any:
        _compare(sent.pop(), (arguments, options))
        made = inner(*arguments, **options)
        sent.append(_copies(made))
        return made

    def _compare(expected: list[Tensor], found: Any) -> None:
        copies = _copies(found)
        if len(expected) != len(copies) or not all(map(torch.equal, expected, copies)):
            lost.append(name)

    # First of all hooks, it sees what the module is called with; last of all, what it returns.
    first = module.register_forward_pre_hook(
        lambda _, *given: sent.append(_copies(given)), with_kwargs=True, prepend=True
    )
    last = module.register_forward_hook(lambda _, __, made: _compare(sent.pop(), made))
    vars(module)[_INNER] = received
    hooks.callback(first.remove)
    hooks.callback(last.remove)
    hooks.callback(vars(module).update, {_INNER: inner})


def _copies(value: Any) -> list[Tensor]:
    """Return copies on the CPU of all tensors of numbers in nested arguments or outputs."""
    if isinstance(value, Tensor):
        return [value.detach().cpu().clone()]
    if isinstance(value, dict):
        value = list(value.values())
    return [copy for one in value for copy in _copies(one)] if type(value) in (list, tuple) else []


def constant_layers(states: Sequence[Tensor]) -> list[int]:
    """Return the layers whose embeddings are the same at all positions, as from zeros.

    Rounding is allowed for in each dimension, and half of the dimensions decide.
    """

    def constant(state: Tensor) -> bool:
        largest = state.abs().amax(1)  # (B, D)
        spread = (state - state[:, :1]).abs().amax(1) / largest.clamp(
            min=torch.finfo(state.dtype).tiny
        )
        return bool(spread.median() <= torch.finfo(state.dtype).eps ** 0.5)

    return [i for i, state in enumerate(states) if state.ndim == 3 and constant(state)]


def tied_names(model: nn.Module) -> set[str]:
    """Return the names under which a divided model has weights that it also has under others."""
    if not is_divided(model):
        return set()
    return {
        f"{prefix}{'.' * bool(prefix)}{name}"
        for prefix, module in model.named_modules()
        for name in getattr(module, "all_tied_weights_keys", None) or ()
    }


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters in the order of their names, each once, wherever they are kept."""
    tied = tied_names(model)
    for path, weight in sorted(model.named_parameters()):
        if path not in tied:
            place, _, name = path.rpartition(".")
            yield path, stored(model.get_submodule(place), name) if weight.is_meta else weight


def stored(module: nn.Module, name: str) -> Tensor:
    """Return a parameter of a module, fetched from where accelerate keeps it if it is elsewhere."""
    weight: Tensor = getattr(module, name)
    if not weight.is_meta:
        return weight
    hook: Any = getattr(module, "_hf_hook", None)
    maps = [getattr(one, "weights_map", None) for one in getattr(hook, "hooks", [hook])]
    found: Tensor = next(each for each in maps if each is not None)[name]
    return found


def keep_output(model: Any) -> None:
    """Hold the output layer of a divided model in memory, where its matrix can be read."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    layer = model.get_output_embeddings()
    own = {name for name, weight in layer.named_parameters(recurse=False) if weight.is_meta}
    if not own:
        return
    hook = layer._hf_hook
    device = getattr(hook, "hooks", [hook])[0].execution_device
    weights = {name: stored(layer, name).to(device, copy=True) for name in own}
    remove_hook_from_module(layer)
    for name, weight in weights.items():
        setattr(layer, name, nn.Parameter(weight, requires_grad=False))
    add_hook_to_module(layer, AlignDevicesHook(device))
