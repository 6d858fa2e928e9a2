"""The command line: every command by its name. `jobs/programs.py` says how it ends."""

import sys
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, UnusedCliTokensError

from tightframe.commands.console import PLAIN
from tightframe.errors import UserError
from tightframe.jobs.programs import endings_in_one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

app = App(
    name="tightframe",
    help="Measure the geometry that language models collapse to, and relate it to what they learn.",
    exit_on_error=False,
    print_error=False,
    result_action="return_none",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    default_parameter=PLAIN,
)
corpus = App(name="corpus", help="Text to token shards.")
sweep = App(name="sweep", help="A grid of settings to trained and measured models.")
atlas = App(name="atlas", help="Series of models along training, from the hub or from folders.")
ntp = App(name="ntp", help="The geometry that a text predicts, and how near models have come.")
knowledge = App(name="knowledge", help="Facts injected into models, and what they answer for them.")
for group in (corpus, sweep, atlas, ntp, knowledge):
    app.command(group)

# Named by module and function: only the command that runs is imported.
for group, commands in (
    (app, "making:demo making:train measuring:measure measuring:compare"),
    (app, "measuring:merge measuring:classes"),
    (app, "relating:relate sweeping:report"),
    (corpus, "making:build"),
    (sweep, "sweeping:plan sweeping:run sweeping:status sweeping:submit sweeping:commands"),
    (atlas, "atlas:audit atlas:run"),
    (ntp, "ntp:count ntp:solve ntp:ridge_path ntp:predict ntp:compare ntp:concepts"),
    (knowledge, "facts:parse facts:questions facts:reword facts:validate facts:spans facts:plant"),
    (knowledge, "injection:inject injection:answer injection:rank scores:score"),
    (knowledge, "clusters:cluster clusters:router clusters:ensemble injection:study"),
    (knowledge, "asking:panel asking:ask"),
):
    for command in commands.split():
        group.command(f"tightframe.commands.{command}")


def main(arguments: "Sequence[str] | None" = None) -> None:
    """Run one command and exit with its status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with endings_in_one_line():
        try:
            _import_listed(arguments)
            app(arguments)
        except CycloptsError as error:
            command = " ".join(["tightframe", *(error.command_chain or ())])
            if isinstance(error, UnusedCliTokensError):
                raise UserError(_too_many(error, command)) from None
            line = " ".join(str(error).split())
            line = line if line.endswith("...") else line.rstrip(".")  # a list that goes on
            raise UserError(f"{line}; see `{command} --help`") from None


def _import_listed(arguments: "Sequence[str]") -> None:
    """Import the commands of the group whose help is shown: cyclopts leaves their lines empty."""
    words, apps, _ = app.parse_commands(arguments)
    shown = apps[sum(not word.startswith("-") for word in words)]
    for name in shown:
        shown[name]


def _too_many(error: UnusedCliTokensError, command: str) -> str:
    """Return what to say of words that no argument takes: perhaps settings without their option."""
    words = error.unused_tokens or []
    settings = " ".join(f"--set {word}" for word in words if "=" in word)
    remedy = f"a setting is given as {settings}; " if settings else ""
    return f"{' '.join(words)}: more arguments than expected; {remedy}see `{command} --help`"
