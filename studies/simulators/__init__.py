"""Do the statistics of `relate` hold where the truth is known? docs/results/statistics.md."""
