"""The whole job on the generated corpus, from text to page, in a few minutes on two cores."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from tightframe.corpus import build
from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.jobs import sweep
from tightframe.report import report
from tightframe.settings import read_toml, write_toml

CORPUS_TOKENS = 600_000


def run_demo(out: Path, *, say: Callable[[str], None]) -> Path:
    """Write stories, train and measure models on them, draw the page; what is finished is kept.

    Args:
        out: Folder that takes `tokens/demo` and `sweeps/demo`.
        say: Gets a line for every step.

    Returns:
        The page.
    """
    tokens = out / "tokens" / "demo"
    if not tokens.exists():
        say(f"writing {CORPUS_TOKENS:,} words of stories to {tokens}")
        build("stories", out=tokens, tokens=CORPUS_TOKENS)
    floor = TokenShards.open(tokens).entropy_floor
    if floor is None:
        raise UserError(f"{tokens}: not the demo's corpus; choose another --out")
    say(f"no model can do better than {floor['mean_conditional_entropy']:.3f} nats per token")
    path = sweep.run(_sweep_file(out, tokens), say=say)
    return report(path)


def _sweep_file(out: Path, tokens: Path) -> Path:
    """Write the demo's sweep as a file that the reader can change and run again."""
    file = out / "sweeps" / "demo.toml"
    with resources.as_file(resources.files("tightframe.jobs") / "demo.toml") as packaged:
        values = read_toml(packaged)
    values["out"] = str(out / "sweeps")
    values["base"]["tokens"] = str(tokens)
    write_toml(file, values)
    return file
