"""Arms compared: the runs of a study, their tables, and a verdict by a rule fixed before."""
