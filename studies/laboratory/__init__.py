"""Does the loss follow when the geometry is pushed? docs/results/laboratory.md."""
