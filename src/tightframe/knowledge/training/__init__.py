"""Facts into a model: what it starts from, its lessons, and the run that is left on disk."""
