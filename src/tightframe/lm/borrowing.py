"""A model in the middle of its training: out of its wrappers, looked at, and left as it was found.

Training loops wrap models (torch's and accelerate's parallel wrappers, `torch.compile`) and patch
them (accelerate's autocast). A look from outside must neither go through these nor change them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tightframe.errors import UserError
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.transformer import Transformer

# Where wrappers keep what they wrap: DistributedDataParallel, DataParallel; torch.compile.
_WRAPPED = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside all wrappers; one whose weights are spread over processes is refused."""
    while (place := _WRAPPED.get(type(model).__name__)) is not None:
        model = getattr(model, place)
    parameters = list(model.parameters())
    sharded = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    # DeepSpeed's third stage marks parameters by `ds_id`; FSDP 2 makes them DTensors.
    if sharded or any(hasattr(p, "ds_id") or hasattr(p, "placements") for p in parameters):
        raise UserError(
            "the weights are spread over processes (FSDP or DeepSpeed's third stage), so one "
            "process can't measure them; measure checkpoints afterwards instead"
        )
    return model


def behind_interface(model: nn.Module, *, name: str) -> Transformer | HuggingFaceModel:
    """An unwrapped model as a LanguageModel: our own as it is, any other as one of transformers.

    Call it inside `left_as_found`: a model of transformers is tried out, in evaluation mode.
    """
    if isinstance(model, Transformer | HuggingFaceModel):
        return model
    if not hasattr(model, "get_output_embeddings"):
        raise TypeError(
            f"{type(model).__name__} is neither tightframe's Transformer nor a causal language "
            "model of transformers"
        )
    return HuggingFaceModel(model, name=name)


@contextlib.contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Whatever is done with an unwrapped model inside, its training goes on as if it were not.

    Put back are the random number generators of torch, the mode (training or evaluation) of each
    module, autocast and its cache of weights. Inside, the model runs without autocast, uncompiled,
    and without accelerate's patch of its forward pass.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    generators = [device] if device.type == "cuda" else []
    own = vars(model)  # accelerate keeps the patched forward here, and what it was before
    patched = own.get("forward") if "_original_forward" in own else None
    with (
        torch.random.fork_rng(devices=generators),
        torch.autocast(device.type, enabled=False, cache_enabled=False),
        _uncompiled(),
    ):
        try:
            if patched is not None:
                own["forward"] = own["_original_forward"]
            yield
        finally:
            if patched is not None:
                own["forward"] = patched
            for module, training in modes:
                module.training = training


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Compiled parts run as they were written: new shapes would make torch compile them again."""
    if hasattr(torch.compiler, "set_stance"):  # since torch 2.6
        stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance
    return contextlib.nullcontext()
