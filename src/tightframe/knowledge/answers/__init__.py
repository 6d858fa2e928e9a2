"""A model asked: the forms of a question, answers and ranks on disk, one typed question."""
