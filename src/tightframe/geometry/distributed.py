"""Shares of a pass for the processes of one job (`torchrun`), and the merging of their states."""

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tightframe.geometry.decisions import Decisions
from tightframe.geometry.ledger import Span
from tightframe.geometry.moments import ClassMoments
from tightframe.lm.hardware import ProcessGroup

State = TypeVar("State", ClassMoments, Decisions)


def own_share(spans: Sequence[Span], world: ProcessGroup, *, multiple: int = 1) -> list[Span]:
    """Return the blocks of `spans` for this process: a stretch about as long as the others'.

    Stretches end at multiples of `multiple`, so that the batches of all processes together are
    those of one process.
    """
    cuts = sorted(
        {cut for first, end in spans for cut in range(first, end) if cut % multiple == 0}
        | {first for first, _ in spans}
    )
    low, high = (len(cuts) * (world.rank + i) // world.size for i in (0, 1))
    start = cuts[low] if low < len(cuts) else math.inf
    stop = cuts[high] if high < len(cuts) else math.inf
    clipped = ((max(first, start), min(end, stop)) for first, end in spans)
    return [(int(first), int(end)) for first, end in clipped if first < end]


def merge_across_processes(state: State, world: ProcessGroup) -> State:
    """Merge the states of all processes; the result is the same everywhere.

    The states travel one after the other, so that no process holds more than two.
    """
    if world.size == 1:
        return state
    total: State | None = None
    for source in range(world.size):
        theirs = _broadcast(state, source, world)
        if total is None:
            total = theirs
        else:
            total.merge(theirs)
    assert total is not None
    return total


def _broadcast(state: State, source: int, world: ProcessGroup) -> State:
    """Send the state of one process to all."""
    mine = world.rank == source
    tensors, facts = state.pack()
    dtypes = {name: str(x.dtype).removeprefix("torch.") for name, x in tensors.items()}
    shapes = {name: list(x.shape) for name, x in tensors.items()}
    dtypes, shapes, facts = _broadcast_json([dtypes, shapes, facts], source, world)
    received = {}
    for name, dtype in dtypes.items():
        if mine:
            tensor = tensors[name].detach().to(world.device).contiguous()
        else:
            tensor = torch.empty(shapes[name], dtype=getattr(torch, dtype), device=world.device)
        if tensor.dtype == torch.bool:  # which nccl doesn't send
            tensor = tensor.byte()
        dist.broadcast(tensor, source)
        received[name] = tensor.bool() if dtype == "bool" else tensor
    device = next(iter(tensors.values())).device
    return type(state).unpack({name: x.to(device) for name, x in received.items()}, facts)


def _broadcast_json(value: Any, source: int, world: ProcessGroup) -> Any:
    content = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
    length = torch.tensor([len(content)], device=world.device)
    dist.broadcast(length, source)
    buffer: Tensor = torch.empty(int(length), dtype=torch.uint8, device=world.device)
    if world.rank == source:
        buffer = content.to(world.device)
    dist.broadcast(buffer, source)
    return json.loads(bytes(buffer.tolist()))
