"""Facts to a benchmark: questions, clozes and other wordings, by rules or a model, all checked."""
