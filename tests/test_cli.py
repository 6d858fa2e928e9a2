import errno
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from cyclopts import App

from tightframe import cli
from tightframe.commands import console
from tightframe.errors import PartlyDoneError, UserError


def _status(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return stop.value.code


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["measure", "--help"],
        ["knowledge"],
        ["corpus", "build", "--help"],
        ["--version"],
    ],
)
def test_help_and_version_import_nothing_heavy(arguments):
    # Every one of these takes longer to import than the 0.3 s in which help must answer.
    code = (
        "import sys\nfrom tightframe import cli\n"
        f"cli.main({arguments!r})\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pydantic', 'plotly', 'matplotlib', 'tokenizers'}"
        "\nassert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_only_the_command_that_runs_is_imported():
    code = (
        "import sys\nfrom tightframe import cli\ncli.main(['measure', '--help'])\n"
        "print(*(m for m in sys.modules if m.startswith('tightframe.commands.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert imported == {"tightframe.commands.console", "tightframe.commands.measuring"}


@pytest.mark.parametrize("words", [["--help"], ["-h"], [], ["ntp", "-h"], ["knowledge"]])
def test_help_of_a_group_describes_each_of_its_commands(capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "200")
    cli.main(words)
    rows = [line.strip("│ ") for line in capsys.readouterr().out.splitlines() if "│ " in line]
    assert len(rows) > 5
    assert all(" " in row for row in rows if row)  # a name alone would be a command without help


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("a; do b"), 2), (PartlyDoneError("1 of 2"), 3)]
)
def test_errors_are_one_line_with_their_status(monkeypatch, capsys, error, status):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("tightframe.report.report", fail)
    assert _status(["report", "."]) == status
    printed = capsys.readouterr()
    assert printed.err == f"tightframe: {error}\n"
    assert printed.out == ""


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("tightframe.report.report", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", "."])


def test_a_misspelt_command_names_the_nearest(capsys):
    assert _status(["trian"]) == 2
    assert 'Did you mean "train"?' in capsys.readouterr().err


def test_json_prints_one_object_and_nothing_else(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tightframe.report.report", lambda path, **more: tmp_path / "index.html")
    cli.main(["report", ".", "--json"])
    assert json.loads(capsys.readouterr().out) == {"page": str(tmp_path / "index.html")}


def test_numbers_that_json_cannot_hold_become_null():
    assert json.loads(console.dumps({"a": [float("nan"), float("inf"), 1.5]})) == {
        "a": [None, None, 1.5]
    }


@pytest.mark.parametrize("given", ["a,b,c", "a b c", "a,b --names c", "a --names b,c"])
def test_words_of_an_option_are_set_apart_by_commas_or_spaces(given):
    found = []
    app = App(result_action="return_none")

    @app.default
    def command(
        *, names: console.Names = None, n: Annotated[list[int] | None, console.SEVERAL] = None
    ):
        found.append((names, n))

    app(["--names", *given.split(), "--n", "1,2"])
    assert found == [(["a", "b", "c"], [1, 2])]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("ntp solve x --device tpu", 'Invalid value "tpu" for --device'),
        ("ntp compare x --table y --device gpu", 'Invalid value "gpu" for --device'),
        ("knowledge study --out x --seeds 0,y", "--seeds: 'y' is no whole number"),
        ("measure x --measures ,", "Invalid value for --measures: names nothing"),
        ("knowledge cluster x --out y --k 1.5", "--k: '1.5' is no whole number"),
        ("measure x --step 4.9", "--step: '4.9' is no whole number"),
        ("measure x --step 4.0", "--step: '4.0' is no whole number"),
        ("corpus build x --out y --vocab-size 300.4", "--vocab-size: '300.4' is no whole number"),
        ("corpus build x --out y --seed -1", "--seed: '-1' is no whole number from 0 on"),
        (f"ntp count x --out y --max-contexts {10**19}", f"'{10**19}' is no whole number"),
        (
            f"ntp compare x --table y --shuffles {2**63 - 1}",
            "shuffles: 9223372036854775807, expected 0 to 1000",
        ),
        ("knowledge study --out x --seeds 0,1.5", "--seeds: '1.5' is no whole number"),
        ("corpus build x --out y --validation-share nan", "'nan' is not a finite number"),
        ("ntp solve x --gap=-inf", "--gap: '-inf' is not a finite number"),
        ("measure x --tokens= --json", "--tokens: is empty"),
        ("measure \udcff", "holds bytes that are no UTF-8 text"),
        ("measure x --tokens y\0", "holds bytes that are no UTF-8 text"),
    ],
)
def test_values_that_an_option_cannot_have_are_one_line(capsys, arguments, said):
    assert _status(arguments.split()) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_plain_values_are_what_was_typed(monkeypatch, tmp_path):
    found = []
    app = App(result_action="return_none", default_parameter=console.PLAIN)
    monkeypatch.setenv("HOME", str(tmp_path))

    @app.default
    def command(
        n: int, /, *, x: float | None = None, out: Path | None = None, flag: console.Flag = False
    ):
        found.append((n, x, out, flag))

    app(["007", "--x", "-1e-3", "--out", "~/caf\u00e9", "--flag"])
    app([str(2**63 - 1)])
    assert found == [(7, -1e-3, tmp_path / "caf\u00e9", True), (2**63 - 1, None, None, False)]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"]
)
def test_a_signal_is_one_line_and_leaves_nothing_half_written(tmp_path, number, status):
    # As a command that is at work on its result: it says so by the temporary folder.
    code = (
        "import time\nfrom tightframe import cli\nfrom tightframe.commands import making\n"
        "from pathlib import Path\nfrom tightframe.files import whole_folder\n"
        "def work(out: Path, /):\n    with whole_folder(out): time.sleep(60)\n"
        "cli.app.command(work)\ncli.main()\n"
    )
    command = [sys.executable, "-c", code, "work", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()) and process.poll() is None:
        pass
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == status
    assert said.startswith("tightframe: interrupted; run the same command again")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk: no space left on the disk"),
        (PermissionError(errno.EACCES, "no", "a/b"), "a/b: cannot be read; check its permissions"),
        (OSError(errno.ENAMETOOLONG, "no", "a/b"), "a/b: the name is too long"),
        (MemoryError("Unable to allocate 8 TiB"), "not enough memory (Unable to allocate 8 TiB)"),
        (UserError("model '\x1b[2Jx'\nand more"), r"model '\x1b[2Jx'\nand more"),
    ],
)
def test_what_a_command_cannot_do_is_one_line_without_control_characters(
    monkeypatch, capsys, error, line
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("tightframe.report.report", fail)
    assert _status(["report", "."]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"tightframe: {line}")
    assert printed.count("\n") == 1
    assert printed[:-1].isprintable()


def test_an_error_that_is_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("tightframe.report.report", lambda *_, **__: [][0])
    with pytest.raises(IndexError):
        cli.main(["report", "."])


def test_results_and_progress_never_act_on_a_terminal(capsys):
    console.show("a\x1b[31m\x07\nb")
    console.say("c\x9b2J[bold]")
    assert capsys.readouterr() == ("a\\x1b[31m\\x07\nb\n", "c\\x9b2J[bold]\n")
