"""Look into a model and leave it as it was: calls of its modules, and a model in its training.

A model in the middle of its training is unwrapped (torch's and accelerate's parallel wrappers,
`torch.compile`, accelerate's autocast), measured, and left as it was: a measurement must neither
go through these nor change them.

Axes: T positions.
"""

import contextlib
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tightframe.errors import UserError

_aten = torch.ops.aten

# Where wrappers keep what they wrap: DistributedDataParallel, DataParallel; torch.compile.
_WRAPPED = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


@contextmanager
def module_calls(model: nn.Module) -> Iterator[list[tuple[nn.Module, Any, Any, Any]]]:
    """Record module, arguments, named arguments and output of calls, in the order of their ends."""
    calls: list[tuple[nn.Module, Any, Any, Any]] = []
    with ExitStack() as hooks:
        for module in model.modules():
            hook = module.register_forward_hook(lambda *call: calls.append(call), with_kwargs=True)
            hooks.callback(hook.remove)
        yield calls


@contextmanager
def returning(module: nn.Module, value: Any) -> Iterator[None]:
    """Let the module return `value` without any work; its hooks still run."""
    attributes = vars(module)
    before = {"forward": attributes["forward"]} if "forward" in attributes else {}
    attributes["forward"] = lambda *_, **__: value  # hides the method of the class
    try:
        yield
    finally:
        del attributes["forward"]
        attributes.update(before)


class PositionTables(TorchDispatchMode):
    """Record the tables of a model that are read at consecutive rows, as positions are.

    A table of positions is read from the same row on whatever the tokens are and however many;
    `limits` of two inputs of other tokens and lengths have nothing else in common.

    Args:
        model: Its parameters and buffers are the tables.
        length: T of the input.
    """

    def __init__(self, model: nn.Module, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        tensors = itertools.chain(model.parameters(), model.buffers())
        self._tables = {tensor.data_ptr() for tensor in tensors}
        self._length = length
        self.limits: set[tuple[int, int]] = set()  # of each: where it lies, positions that it has

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation of torch, and look at it if it reads rows by their indices."""
        match func.overloadpacket, args:
            case (_aten.embedding, (table, rows, *_)):
                self._read(table, 0, rows)
            case (_aten.index, (table, rows)) if rows and isinstance(rows[0], Tensor):
                self._read(table, 0, rows[0])
            case (_aten.index_select | _aten.gather, (table, int(axis), rows, *_)):
                self._read(table, axis, rows)
        return func(*args, **(kwargs or {}))

    def _read(self, table: Tensor, axis: int, rows: Tensor) -> None:
        whole = rows.dtype in (torch.int32, torch.int64) and rows.numel() >= self._length
        if not whole or table.data_ptr() not in self._tables:
            return
        read = rows.unique_consecutive().tolist()
        first = read[0]
        if read == list(range(first, first + self._length)):
            self.limits.add((table.data_ptr(), table.shape[axis] - first))


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside all wrappers; refuse weights that are spread over processes."""
    while (place := _WRAPPED.get(type(model).__name__)) is not None:
        model = getattr(model, place)
    parameters = list(model.parameters())
    sharded = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    # DeepSpeed's third stage marks parameters by `ds_id`; FSDP 2 makes them DTensors.
    if sharded or any(hasattr(p, "ds_id") or hasattr(p, "placements") for p in parameters):
        raise UserError(
            "the weights are spread over processes (FSDP or DeepSpeed's third stage), so one "
            "process can't measure them; measure checkpoints afterwards instead"
        )
    return model


@contextlib.contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Leave the training of an unwrapped model as it was, whatever is done with it inside.

    Put back are the random number generators of torch, the mode (training or evaluation) of each
    module, autocast and its cache of weights. Inside, the model runs without autocast, uncompiled,
    and without accelerate's patch of its forward pass.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    generators = [device] if device.type == "cuda" else []
    own = vars(model)  # accelerate keeps the patched forward here, and what it was before
    patched = own.get("forward") if "_original_forward" in own else None
    with (
        torch.random.fork_rng(devices=generators),
        torch.autocast(device.type, enabled=False, cache_enabled=False),
        torch.compiler.set_stance("force_eager"),  # new shapes would be compiled again
    ):
        try:
            if patched is not None:
                own["forward"] = own["_original_forward"]
            yield
        finally:
            if patched is not None:
                own["forward"] = patched
            for module, training in modes:
                module.training = training
