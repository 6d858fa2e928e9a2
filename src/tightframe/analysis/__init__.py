"""Rows to statistics across models.

`checkpoints` makes one line of each checkpoint, `association` relates a measure to loss, `profiles`
shows a checkpoint by layer and frequency. `same_loss` takes the prediction of a context table at
the loss of a trained model, and `support_order` puts words and contexts of like support together.
"""
