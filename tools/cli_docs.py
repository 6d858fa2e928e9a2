"""Print docs/cli.md: every command with its arguments and options, as `--help` shows them.

python tools/cli_docs.py > docs/cli.md
"""

import re

from tightframe.cli import app

HEAD = """# The command line

Printed by `python tools/cli_docs.py`. Every command has `--help`. Results go to standard output,
progress and messages to standard error. Exit status: 0 done, 1 our mistake (traceback), 2 the
user's mistake (one line), 3 partly done (run it again).
"""


def cli_page() -> str:
    """Return the page of the command line, made from the functions of the commands."""
    made = app.generate_docs(output_format="markdown", heading_level=1)
    body = made.split("## Table of Contents", 1)[1]
    body = body[body.index("\n## ") :]  # without the contents, which the site makes
    body = re.sub(r"\n{3,}", "\n\n", body)
    lines = [line.rstrip() for line in body.strip().splitlines()]
    return HEAD + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(cli_page(), end="")
