"""Work of a sweep on a few cores: one thread a core, each with all of the loops of its own tiles.

NumPy's loops run on one core. Where torch shares its own among the cores, the others wait for it
in vain in between, at full power: on two of them that doubled the processor time of a sweep.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from tightframe.geometry import elementwise

__all__ = ["apart", "side_by_side"]


@contextmanager
def apart(device: torch.device) -> Iterator[int]:
    """Torch on one core a thread, where NumPy is used; yields how many threads are to share."""
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores > elementwise.CORES:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield cores
    finally:
        torch.set_num_threads(cores)


def side_by_side(tasks: Sequence[Callable[[], None]]) -> None:
    """Run each task in a thread of its own; the first error is raised when all have ended."""
    if len(tasks) == 1:
        tasks[0]()
        return
    inference = torch.is_inference_mode_enabled()  # of this thread; others start without

    def run(task: Callable[[], None]) -> None:
        with torch.inference_mode(inference):
            task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        for future in [pool.submit(run, task) for task in tasks]:
            future.result()
