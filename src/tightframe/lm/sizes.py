"""What a training asks of the machine: the sizes of its network, memory, device and threads.

Nothing here needs torch, so that what cannot be trained is refused before torch is loaded.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from tightframe.corpus.manifest import read_manifest
from tightframe.errors import UserError
from tightframe.files import check_writable
from tightframe.lm.runs import Run, TrainSettings

CHOICES = {"device": "auto", "precision": "auto", "threads": 0}  # what asks for a choice
MOST_THREADS = 1024  # more than any machine has cores for one process; torch starts all of them

# Files of the drivers of GPUs: without any of them torch finds none.
_DRIVERS = ("nvidia*", "nvhost*", "nvgpu*", "nvmap", "kfd", "dxg")


@runtime_checkable
class MachineSettings(Protocol):
    """The settings that depend on the machine, in a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def threads(self) -> int: ...  # noqa: D102


S = TypeVar("S", bound=MachineSettings)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """What a Transformer is; the defaults are GPT-Neo's."""

    vocab_size: int
    width: int  # D, the length of an embedding
    depth: int  # number of blocks
    heads: int
    positions: int  # P, the longest context in tokens
    window: int = 256  # every second block sees keys closer than this; 0: all blocks see all
    tied: bool = True  # the classifier is the token embedding
    attention_bias: bool = False  # biases on query, key and value
    scale_attention: bool = False  # divide attention logits by sqrt(D / H), as GPT-2 does
    init_std: float = 0.02  # of embeddings and matrices at the start; biases start at 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "depth", "heads", "positions"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.window < 0:
            raise UserError(f"window is {self.window}, expected 0 (no local attention) or more")
        if self.width % self.heads:
            raise UserError(
                f"width {self.width} is not divisible by {self.heads} heads; "
                "choose a width that is a multiple of the heads"
            )

    @property
    def sizes(self) -> str:
        """What a message on its memory calls it."""
        return f"a model of width {self.width:,} and depth {self.depth:,}"

    def training_bytes(self, rows: int) -> int:
        """Return about how many bytes a training takes at the least, with `rows` rows in a step.

        Of each parameter the weight, its gradient and AdamW's two moments, in float32; of each
        position of each block about sixteen vectors that the gradient needs: norms, queries, keys,
        values, the attention's output, and four times two of the hidden layer.
        """
        vocabularies = 1 if self.tied else 2
        parameters = self.width * (vocabularies * self.vocab_size + self.positions)
        parameters += 12 * self.depth * self.width**2
        activations = 16 * rows * self.positions * self.width * self.depth
        return 4 * (4 * parameters + activations)


def check_training(settings: TrainSettings) -> None:
    """Refuse a training that cannot begin: its tokens, its sizes, or its place.

    Args:
        settings: As they were given, with "auto" where the machine decides.
    """
    check_sizes(settings)
    check_threads(settings.threads)
    check_device(settings.device)
    check_writable(settings.out)
    if (settings.out / "config.toml").exists():
        settings = as_recorded(settings, Run.open(settings.out).settings)
    Run.check_place(settings, {"tokens": read_manifest(settings.tokens)["fingerprint"]})


def check_sizes(settings: TrainSettings) -> None:
    """Refuse a network that is impossible, or that no memory can hold; see `check_fits`."""
    manifest = read_manifest(settings.tokens)
    config = config_of(settings, manifest["vocab_size"], manifest["block"])
    if settings.device == "cpu" or (settings.device == "auto" and not may_have_gpu()):
        rows = min(settings.batch, manifest["splits"]["train"]["blocks"])
        check_fits(config.training_bytes(rows), free_cpu_memory(), "cpu", what=config.sizes)


def config_of(settings: TrainSettings, vocab_size: int, positions: int) -> TransformerConfig:
    """Return what the Transformer of a training is, on tokens of this vocabulary and block."""
    return TransformerConfig(
        vocab_size=vocab_size,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        positions=positions,
        window=settings.window,
        tied=settings.tied,
    )


def as_recorded(settings: S, recorded: S) -> S:
    """Return settings with every "auto" replaced by what a run that exists has chosen."""
    again = {n: getattr(recorded, n) for n, auto in CHOICES.items() if getattr(settings, n) == auto}
    return dataclasses.replace(settings, **again)


def check_threads(threads: int) -> None:
    """Refuse more threads than any machine has."""
    if threads > MOST_THREADS:
        raise UserError(f"threads is {threads:,}; expected at most {MOST_THREADS:,}")


def check_device(device: str) -> None:
    """Refuse a GPU on a machine that has no driver of one."""
    if device == "cuda" and not may_have_gpu():
        raise no_gpu()


def no_gpu() -> UserError:
    """Return the error of a GPU that is not there."""
    return UserError("device is 'cuda', but torch finds no GPU here; set device=cpu")


def may_have_gpu() -> bool:
    """Whether the machine has the driver of a GPU; torch alone knows whether it has a GPU."""
    return any(True for pattern in _DRIVERS for _ in Path("/dev").glob(pattern))


def free_cpu_memory() -> int | None:
    """Return the bytes that can still be taken; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None


def check_fits(needed: int, free: int | None, device: str, *, what: str) -> None:
    """Refuse what would not fit into the free memory of a device, before it is allocated."""
    if free is not None and needed > free:
        raise UserError(
            f"{what} takes about {needed / 1e9:,.1f} GB of memory, but {free / 1e9:,.1f} GB are "
            f"free on {device}; choose smaller sizes"
        )
