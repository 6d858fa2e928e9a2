"""`python -m tightframe.collapse [NAME ... | default]`: the table of measures, as Markdown."""

import sys

from tightframe.collapse.measures import DEFAULT, measure_table

if __name__ == "__main__":
    names = sys.argv[1:] or ["all"]
    print(measure_table(DEFAULT if names == ["default"] else names), end="")
