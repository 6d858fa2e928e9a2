"""The command line: every command by its name. `jobs/programs.py` says how it ends."""

import sys
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, UnusedCliTokensError

from tightframe.commands import (
    asking,
    clusters,
    facts,
    injection,
    making,
    measuring,
    relating,
    scores,
    sweeping,
)
from tightframe.commands import ntp as theory
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
ntp = App(name="ntp", help="The geometry that a text predicts, and how near models have come.")
knowledge = App(name="knowledge", help="Facts injected into models, and what they answer for them.")
app.command(corpus)
app.command(sweep)
app.command(ntp)
app.command(knowledge)

app.command(making.demo)
corpus.command(making.build)
app.command(making.train)
app.command(measuring.measure)
app.command(measuring.merge)
app.command(measuring.classes)
sweep.command(sweeping.plan)
sweep.command(sweeping.run)
sweep.command(sweeping.status)
app.command(relating.relate)
app.command(sweeping.report)
ntp.command(theory.count)
ntp.command(theory.solve)
ntp.command(theory.ridge_path)
ntp.command(theory.predict)
ntp.command(theory.compare)
ntp.command(theory.concepts)
knowledge.command(facts.parse)
knowledge.command(facts.questions)
knowledge.command(facts.reword)
knowledge.command(facts.validate)
knowledge.command(facts.spans)
knowledge.command(injection.inject)
knowledge.command(injection.answer)
knowledge.command(injection.rank)
knowledge.command(scores.score)
knowledge.command(clusters.cluster)
knowledge.command(clusters.scope)
knowledge.command(clusters.ensemble)
knowledge.command(injection.study)
knowledge.command(asking.panel)
knowledge.command(asking.ask)


def main(arguments: "Sequence[str] | None" = None) -> None:
    """Run one command and exit with its status."""
    with endings_in_one_line():
        try:
            app(sys.argv[1:] if arguments is None else arguments)
        except CycloptsError as error:
            command = " ".join(["tightframe", *(error.command_chain or ())])
            if isinstance(error, UnusedCliTokensError):
                raise UserError(_too_many(error, command)) from None
            line = " ".join(str(error).split())
            line = line if line.endswith("...") else line.rstrip(".")  # a list that goes on
            raise UserError(f"{line}; see `{command} --help`") from None


def _too_many(error: UnusedCliTokensError, command: str) -> str:
    """Return what to say of words that no argument takes: perhaps settings without their option."""
    words = error.unused_tokens or []
    settings = " ".join(f"--set {word}" for word in words if "=" in word)
    remedy = f"a setting is given as {settings}; " if settings else ""
    return f"{' '.join(words)}: more arguments than expected; {remedy}see `{command} --help`"
