"""Files of outputs: what a model said, a line a question."""

from collections.abc import Collection
from pathlib import Path

from tightframe.errors import UserError
from tightframe.knowledge.data.json_lines import read_records
from tightframe.knowledge.data.records import Output

NAME = "answers.jsonl"  # of the outputs in a run directory
FORMS = "answers"  # its folder of outputs by form of asking


def read_outputs(path: str | Path) -> list[Output]:
    """The outputs in a file, or in a run directory's answers.jsonl; a broken line is named."""
    path = _file_of(Path(path))
    outputs: list[Output] = read_records(path, Output, what="an output, as models are answered")
    if not outputs:
        raise UserError(f"{path}: empty, expected an output a line; answer the questions first")
    return outputs


def empty_answers(outputs: Collection[Output]) -> str:
    """Return how many answers hold nothing, and what to do; nothing where each holds something."""
    n = sum(not output.text.strip() for output in outputs)
    if not n:
        return ""
    return (
        f"{n:,} of {len(outputs):,} answers are empty: the model ended at once; ask it in another "
        "form, e.g. by `tightframe knowledge answer --form left_context`"
    )


def _file_of(path: Path) -> Path:
    """The file of outputs that a path means; a run that was asked in other forms names them."""
    if not path.is_dir() or (path / NAME).is_file():
        return path / NAME if path.is_dir() else path
    asked = sorted(path.glob(f"{FORMS}/*.jsonl"))
    if not asked:
        raise UserError(
            f"{path}: holds no {NAME}; ask the model first, with `tightframe knowledge answer`"
        )
    raise UserError(
        f"{path}: holds answers in several forms of asking; name the file of one: "
        + ", ".join(map(str, asked))
    )
