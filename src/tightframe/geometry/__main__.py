"""`python -m tightframe.geometry [NAME ... | default]`: the table of measures, as Markdown."""

import sys

from tightframe.geometry.measures import DEFAULT, measure_table

if __name__ == "__main__":
    names = sys.argv[1:] or ["all"]
    print(measure_table(DEFAULT if names == ["default"] else names), end="")
