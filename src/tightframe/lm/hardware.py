"""What the machine offers: device, precision, threads, exact float32, and processes of one job."""

import contextlib
import dataclasses
import functools
import os
import platform
import signal
import threading
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from tightframe.errors import UserError
from tightframe.lm.runs import M, as_recorded, check_fits, check_threads, free_cpu_memory, no_gpu


def choose(settings: M, recorded: M | None = None) -> M:
    """Return settings with every "auto" replaced by the `recorded` value or by this machine's."""
    if recorded is not None:
        settings = as_recorded(settings, recorded)
    device = device_named(settings.device)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if _multiplies_bf16(device) else "fp32"
    threads = settings.threads or torch.get_num_threads()
    check_threads(threads)
    return dataclasses.replace(settings, device=device, precision=precision, threads=threads)


def made_by() -> dict[str, Any]:
    """Return what the first line of a log says of the machine and its software."""
    return {
        "version": version("tightframe"),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def device_named(device: str) -> str:
    """Return the requested device; "auto" is a GPU where there is one."""
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise no_gpu(device)
        if (torch.device(device).index or 0) >= (n := torch.cuda.device_count()):
            raise UserError(f"device is '{device}', but torch finds {n} GPUs here: cuda:0 is first")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


@contextlib.contextmanager
def prepared(threads: int) -> Iterator[None]:
    """Use exactly so many threads, and `exact_float32`; restore both at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with exact_float32():
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products on the CPU by oneDNN instead of MKL, where it keeps float32.

    MKL leaves the 512-bit instructions of AMD processors unused; oneDNN is more than twice as fast
    there (`benchmarks/parts.py`). torch asks oneDNN for float32 products only if bfloat16 is
    allowed inside them, which oneDNN does with AMX instructions alone. So we allow it where a
    product shows no such loss.
    """
    settings = _onednn_settings()
    if settings is None or not _onednn_is_exact():
        yield
        return
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@functools.cache
def _onednn_is_exact() -> bool:
    """Return whether oneDNN's products have float32's error: about 1e-7, with bfloat16 1e-3."""
    settings = _onednn_settings()
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator)
    exact = left.double() @ right.double()
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        error = (left @ right - exact).norm() / exact.norm()
    finally:
        settings.fp32_precision = before
    return bool(error < 1e-6)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be taken on a device; None where the system doesn't tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_cpu_memory()


def check_memory(needed: int, device: str, *, what: str) -> None:
    """Refuse what would not fit into the free memory of a device, before it is allocated."""
    check_fits(needed, free_memory(torch.device(device)), device, what=what)


def _onednn_settings() -> Any:
    """Return where torch keeps the inner precision of oneDNN's products; None before 2.9."""
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    return settings if hasattr(settings, "fp32_precision") else None


def _multiplies_bf16(device: str) -> bool:
    """Return whether the processor has bfloat16 instructions; emulating them is slow."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private to torch.cpu
    return any(hasattr(torch.cpu, name) and bool(getattr(torch.cpu, name)()) for name in asked)


class ProcessGroup(NamedTuple):
    """Rank of this process, and number of processes; without `torchrun` there is one."""

    rank: int = 0
    size: int = 1

    @property
    def device(self) -> torch.device:
        """Device of this process: its own GPU, or the CPU."""
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")


ALONE = ProcessGroup()


@contextlib.contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Join the other processes that `torchrun` has started, if any; leave them at the end."""
    if "RANK" not in os.environ or not dist.is_available():
        yield ProcessGroup()
        return
    joined = not dist.is_initialized()
    if joined:
        if torch.cuda.is_available():
            torch.cuda.set_device(ProcessGroup().device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    finally:
        if joined:
            dist.destroy_process_group()


def barrier(world: ProcessGroup) -> None:
    """Wait until all processes are here."""
    if world.size > 1:
        dist.barrier()


@contextlib.contextmanager
def usr1_noted() -> Iterator[list[int]]:
    """Yield a list that SIGUSR1 adds to, instead of ending the process between two states."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can it be caught
        yield noted
        return
    before = signal.signal(signal.SIGUSR1, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGUSR1, before)
