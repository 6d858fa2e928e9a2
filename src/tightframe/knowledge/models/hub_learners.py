"""Models of transformers as learners: from a name on the hub, a folder, or a learner of ours.

The class follows from the configuration: sequence-to-sequence (T5), masked (RoBERTa, BERT,
ModernBERT) or causal (Llama, Qwen, Gemma).
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch

from tightframe.errors import UserError
from tightframe.formats import check_digest, read_signed
from tightframe.knowledge.models.exchanges import Objective
from tightframe.knowledge.models.hub_base import (
    RECORD,
    HubLearner,
    HubRecord,
    Kind,
    LoRA,
    SavedLearner,
)
from tightframe.knowledge.models.hub_causal import CausalLearner
from tightframe.knowledge.models.hub_loading import (
    Loaded,
    load_pretrained,
    with_new_adapters,
    with_saved_adapters,
)
from tightframe.knowledge.models.hub_masked import MaskedLearner
from tightframe.knowledge.models.hub_seq2seq import Seq2SeqLearner

__all__ = ["HubLearner", "LoRA", "load_hub_learner"]

WHOLE = 3_000_000_000  # parameters up to which a causal model is trained whole, unless told

LEARNERS: dict[Kind, type[HubLearner]] = {
    "causal": CausalLearner,
    "seq2seq": Seq2SeqLearner,
    "masked": MaskedLearner,
}


def load_hub_learner(
    source: str | Path,
    *,
    objective: Objective | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    lora: LoRA | Literal["auto"] | None = "auto",
    name: str | None = None,
    seed: int | None = None,
    paper_format: bool | None = None,
) -> HubLearner:
    """A model that facts can be injected into, and that can be asked.

    What isn't given is as a saved learner's record says; for any other model, as said below.

    Args:
        source: A folder that `save` wrote, any folder of transformers, or a name on the hub.
        objective: Decides how questions are put; by default ntp (causal), sp (T5), mlm (masked).
        device: Where the model lies.
        dtype: Of its weights (adapters are float32); by default float32.
        attention: transformers' `attn_implementation`; by default its own choice.
        lora: Adapters of a causal model, None for all weights; "auto": above 3B parameters.
        name: What outputs call it; by default the last part of `source`.
        seed: Of the adapters' first values and of masked tokens; by default 0.
        paper_format: Leave out the end after a sentence (causal, ntp).
    """
    folder = Path(source).expanduser()
    saved = _saved_record(folder)
    dtype = dtype or (getattr(torch, saved.dtype) if saved else torch.float32)
    resumed = saved is not None and saved.lora is not None  # the folder holds adapters only
    loaded = load_pretrained(
        saved.base if saved and resumed else str(source),
        revision=saved.revision if resumed and saved else None,
        dtype=dtype,
        attention=attention,
    )
    if lora == "auto":
        lora = saved.lora if saved else _usual_adapters(loaded)
    if lora and loaded.kind != "causal":
        raise UserError(f"{source}: adapters are for causal models, this is a {loaded.kind} one")
    if saved and resumed and lora != saved.lora:
        raise UserError(
            f"{source}: was trained with other adapters ({saved.lora}); leave the setting out, or "
            "start from the base model"
        )
    first = _first_record(source, loaded)
    changes: dict[str, Any] = {
        "objective": objective,
        "name": name,
        "seed": seed,
        "paper_format": paper_format,
        "base": first.base if lora and not resumed else None,
    }
    record = dataclasses.replace(
        saved or first,
        dtype=str(dtype).removeprefix("torch."),
        lora=lora,
        **{key: value for key, value in changes.items() if value is not None},
    )
    model = loaded.model
    if resumed:
        model = with_saved_adapters(model, folder)
    elif lora:
        model = with_new_adapters(model, lora, seed=record.seed, source=str(source))
    return LEARNERS[loaded.kind](model.to(device).eval(), loaded.tokenizer, record)


def _usual_adapters(loaded: Loaded) -> LoRA | None:
    n_parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    return LoRA() if loaded.kind == "causal" and n_parameters > WHOLE else None


def _first_record(source: str | Path, loaded: Loaded) -> HubRecord:
    path = Path(source).expanduser()
    return HubRecord(
        kind=loaded.kind,
        objective=LEARNERS[loaded.kind].objectives[0],
        name=(path.resolve() if path.exists() else path).name,
        base=str(path.resolve()) if path.exists() else str(source),
        revision=loaded.revision,
        dtype="float32",
        lora=None,
        seed=0,
    )


def _saved_record(folder: Path) -> HubRecord | None:
    """What a folder of ours says of itself; None for any other source."""
    path = folder / RECORD
    if not path.is_file():
        return None
    about: SavedLearner = read_signed(path, SavedLearner, remedy="inject again")
    for name, digest in about.files.items():
        check_digest(folder / name, digest)
    record: HubRecord = about.record
    if not isinstance(getattr(torch, record.dtype, None), torch.dtype):
        raise UserError(f"{path}: dtype: '{record.dtype}' is no type of torch; inject again")
    return record
