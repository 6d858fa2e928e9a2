"""Outputs to scores: of one answer, of a benchmark, and of two models on the same facts."""
