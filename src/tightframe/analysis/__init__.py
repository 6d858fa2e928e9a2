"""Rows to statistics across models, and what joins two studies.

Across models: `checkpoints` makes a line of each, `association` says how a measure goes with loss,
`profiles` looks at one of them by layer and frequency. Text and class means: `bridges` makes the
models that a text predicts, `agreement` holds them against trained ones, `same_loss` against the
way there. Facts as classes: `fact_variants`, `fact_embeddings`, `fact_geometry` and `fact_tables`,
each made of the one before, then `recall` by `gain`, and `locality`.
"""
