"""Tokens to trained models, and anyone's model behind one interface.

`interface` is the way in: what a batch is, and what every room to the right asks of a model.
`transformer` and `encoder_decoder` are our networks, `checkpoints` their folders, `huggingface`
puts the models of others behind the interface, and `load` loads any of them. `options` holds a
training's settings and the rate of each step, `runs` its directory, `training` the loop itself, and
`optimizer` the states that it resumes from. Facts are injected by the same loop, see `knowledge`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tightframe.corpus.shards import TokenShards
    from tightframe.lm.runs import Run
    from tightframe.lm.training import Hook, StepHook


def train(
    tokens: "TokenShards | str | Path",
    *,
    out: str | Path,
    hooks: "Sequence[Hook]" = (),
    step_hooks: "Sequence[StepHook]" = (),
    **settings: Any,
) -> "Run":
    """Train a model on token shards, or resume a run that was interrupted.

    >>> run = train("tokens/stories", out="runs/small", width=64, depth=2)  # doctest: +SKIP

    Args:
        tokens: The shards, or their folder.
        out: Run directory; one that exists is resumed if its settings are the same.
        hooks: Called with each record of the log.
        step_hooks: Called at each step, e.g. `tf.CollapseCallback(...).step`.
        settings: Fields of `tightframe.lm.options.TrainOptions`: width, depth, epochs, seed, ...

    Returns:
        The run: its `path`, `settings`, `log` and the `steps` of its checkpoints.
    """
    from tightframe.lm.options import TrainOptions
    from tightframe.lm.runs import check_training
    from tightframe.settings import resolve

    place = str(getattr(tokens, "path", tokens))
    values = {**settings, "tokens": place, "out": str(out)}
    options = resolve(TrainOptions, values, source="train")
    check_training(options)
    from tightframe.lm.training import train as train_model  # imports torch

    return train_model(options, hooks=hooks, step_hooks=step_hooks)
