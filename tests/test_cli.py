import json
import subprocess
import sys

import pytest
from cyclopts import App

from tightframe import cli
from tightframe.commands import console
from tightframe.errors import PartlyDoneError, UserError


def _status(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return stop.value.code


@pytest.mark.parametrize("arguments", [["--help"], ["corpus", "build", "--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(arguments):
    # Every one of these takes longer to import than the 0.3 s in which help must answer.
    code = (
        "import sys\nfrom tightframe import cli\n"
        f"cli.main({arguments!r})\n"
        "heavy = {'torch', 'numpy', 'pandas', 'transformers', 'plotly', 'matplotlib', 'tokenizers'}"
        "\nassert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("a; do b"), 2), (PartlyDoneError("1 of 2"), 3)]
)
def test_errors_are_one_line_with_their_status(monkeypatch, capsys, error, status):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("tightframe.report.report", fail)
    assert _status(["report", "x"]) == status
    printed = capsys.readouterr()
    assert printed.err == f"tightframe: {error}\n"
    assert printed.out == ""


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("tightframe.report.report", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", "x"])


def test_a_misspelt_command_names_the_nearest(capsys):
    assert _status(["trian"]) == 2
    assert 'Did you mean "train"?' in capsys.readouterr().err


def test_json_prints_one_object_and_nothing_else(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tightframe.report.report", lambda path, **more: tmp_path / "index.html")
    cli.main(["report", "x", "--json"])
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
    def command(*, names: console.Names = None, n: console.Numbers = None):
        found.append((names, n))

    app(["--names", *given.split(), "--n", "1,2"])
    assert found == [(["a", "b", "c"], [1, 2])]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("ntp solve x --device tpu", 'Invalid value "tpu" for --device'),
        ("ntp compare x --table y --device gpu", 'Invalid value "gpu" for --device'),
        ("knowledge study --out x --seeds 0,y", 'Invalid value for --seeds: unable to convert "y"'),
        ("measure x --measures ,", "Invalid value for --measures: names nothing"),
    ],
)
def test_values_that_an_option_cannot_have_are_one_line(capsys, arguments, said):
    assert _status(arguments.split()) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
