"""Files of outputs: what a model said, one line for each question, and how it was asked."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.formats import Record, Sha256, check_digest, read_json, read_signed, write_signed
from tightframe.knowledge.facts import Output, read_records, write_records

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


class _Whose(Record):
    """What the second file holds."""

    model: str
    trained_on: str | None


class _Signed(_Whose):
    """The same where we wrote it."""

    sha256: Sha256  # of the outputs
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Answers:
    """The outputs of one model."""

    name: str  # its file, for messages
    model: str
    trained_on: str | None  # `facts_fingerprint` of the injected facts; None: nothing was injected
    outputs: Mapping[str, Output]  # by question id


def by_question(name: str, outputs: Sequence[Output]) -> dict[str, Output]:
    """The outputs by question id; a question answered twice is refused."""
    found: dict[str, Output] = {}
    for output in outputs:
        if output.question_id in found:
            raise UserError(
                f"{name}: two outputs for question {output.question_id}, expected one; answer it "
                "again into a new file"
            )
        found[output.question_id] = output
    return found


def save_answers(path: str | Path, answers: Answers) -> None:
    """Write the outputs, then the file that says whose they are."""
    path = Path(path)
    write_records(path, (dataclasses.asdict(output) for output in answers.outputs.values()))
    whose = {"model": answers.model, "trained_on": answers.trained_on, "sha256": sha256(path)}
    write_signed(_whose(path), whose)


def load_answers(path: str | Path) -> Answers:
    """The inverse of `save_answers`."""
    path = Path(path)
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: expected a file of outputs, NAME.jsonl")
    outputs = read_outputs(path)
    if not _whose(path).is_file():
        raise UserError(
            f"{_whose(path)}: missing, so nobody can tell which facts the model of {path.name} was "
            'trained on; write {"model": NAME, "trained_on": FINGERPRINT}, that of '
            "its cluster in clusters.json, or null for a model that was trained on no facts"
        )
    written, remedy = read_json(_whose(path)), "mend it, or answer again"
    if isinstance(written, dict) and written.keys() & {"sha256", "fingerprint"}:
        whose: _Whose = read_signed(_whose(path), _Signed, remedy=remedy)
        check_digest(path, written["sha256"])
    else:
        whose = read_json(_whose(path), _Whose, remedy=remedy)
    return Answers(str(path), whose.model, whose.trained_on, by_question(str(path), outputs))


def _whose(path: Path) -> Path:
    return path.with_suffix(".json")


def check_new(path: Path) -> None:
    """Refuse what cannot become a new file of results, before the work and not after it."""
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: expected a name that ends with .jsonl")
    for one in (path, path.with_suffix(".json")):
        if one.exists():
            raise UserError(f"{one}: already exists; remove it or choose another name with --out")
