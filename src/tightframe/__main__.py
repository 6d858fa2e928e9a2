"""`python -m tightframe` is the command line."""

from tightframe.cli import main

main()
