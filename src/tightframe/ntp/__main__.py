"""`python -m tightframe.ntp`: the table of measures of a model beside its table, as Markdown."""

from tightframe.ntp.catalogue import measure_table

if __name__ == "__main__":
    print(measure_table(), end="")
