"""Rows to statistics across models.

`checkpoints` makes one line of each checkpoint, `association` relates a measure to loss, `profiles`
shows a checkpoint by layer and frequency.
"""
