"""What the modules of a model are called with and look up, without names of layers.

Axes: T positions.
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


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
