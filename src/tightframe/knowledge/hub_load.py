"""Load question-answering models from transformers: from a hub name, a folder, or a saved one.

The class follows from the configuration: sequence-to-sequence (T5), masked (RoBERTa, BERT,
ModernBERT) or causal (Llama, Qwen, Gemma).
"""

import dataclasses
import importlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.formats import check_digest, read_signed
from tightframe.knowledge.hub import RECORD, HubModel, HubRecord, Kind, LoRA, SavedModel, quietly
from tightframe.knowledge.hub_decoders import CausalQAModel, Seq2SeqQAModel
from tightframe.knowledge.hub_masked import MaskedQAModel
from tightframe.knowledge.qa_models import Objective
from tightframe.lm.folders import check_loadable
from tightframe.lm.pretrained import check_tensors

ADAPTERS = "adapter_model.safetensors"

_CLASSES = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "masked": "AutoModelForMaskedLM",
}


class Pretrained(NamedTuple):
    """A model of transformers with its tokenizer, as it was found."""

    model: Any
    tokenizer: Any
    kind: Kind
    revision: str | None  # the commit on the hub


def load_pretrained(
    source: str, *, revision: str | None, dtype: torch.dtype, attention: str | None
) -> Pretrained:
    """Load weights from safetensors, without dropout, and a fast tokenizer; run no code of theirs.

    Without dropout the loss depends on nothing but weights and batch, and a training that is
    resumed needs no generator of the machine's.
    """
    transformers = library("transformers", source)
    path = Path(source).expanduser()
    check_loadable(source)
    where = str(path) if path.exists() else source
    options: dict[str, Any] = {
        "trust_remote_code": False,
        "local_files_only": not path.exists() and hub.unreachable(),
        "revision": revision,
    }
    try:
        with quietly():
            config = transformers.AutoConfig.from_pretrained(where, **options)
            kind = kind_of(config)
            _without_dropout(config)
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, use_fast=True, **options)
            model, report = getattr(transformers, _CLASSES[kind]).from_pretrained(
                where,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **options,
            )
    except Exception as error:  # whatever the network, the hub, the files or their code may raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{source}: brings Python code of its own, which is never run here; choose a model "
                "that transformers knows"
            ) from None
        raise UserError(
            f"{source}: transformers can't load this as a model with its tokenizer "
            f"({hub.reason(error)}); give a folder of one, or a name that can be fetched"
        ) from None
    check_tensors(source, report, kind=kind)
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{source}: has no fast tokenizer (tokenizer.json); convert its tokenizer")
    _keep_ends_only(model, transformers)
    return Pretrained(model, tokenizer, kind, getattr(config, "_commit_hash", None))


def kind_of(config: Any) -> Kind:
    """Return the kind of model that a configuration describes, by its architecture or its class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    if config.is_encoder_decoder:
        return "seq2seq"
    named = tuple(config.architectures or ())
    if any(name.endswith("ForMaskedLM") for name in named):
        return "masked"
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named):
        return "causal"
    return "masked" if type(config) in MODEL_FOR_MASKED_LM_MAPPING else "causal"


def with_new_adapters(model: Any, lora: LoRA, *, seed: int, source: str) -> Any:
    """Add adapters that initially change no output, in float32; their seed gives equal weights
    on every device."""
    peft = library("peft", source)
    with quietly(), torch.random.fork_rng(devices=[]):  # peft draws from torch's own generator
        torch.default_generator.manual_seed(seed)
        return peft.get_peft_model(
            model,
            peft.LoraConfig(
                task_type="CAUSAL_LM",
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=0.0,
                target_modules="all-linear",
            ),
        )


def with_saved_adapters(model: Any, folder: Path) -> Any:
    """Load the adapters of a folder, to train them further."""
    peft = library("peft", str(folder))
    if not (folder / ADAPTERS).is_file():  # peft would read a pickled file instead
        raise UserError(f"{folder}: has no {ADAPTERS}; it is damaged, inject again")
    try:
        with quietly():
            return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except Exception as error:  # whatever the files may make peft raise
        raise UserError(
            f"{folder}: its adapters don't fit their base model ({hub.reason(error)})"
        ) from None


def library(name: str, source: str) -> Any:
    """Import a module of the extra; a user who lacks it is told how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{source}: needs {name}; run `pip install 'tightframe[hf]'`") from None


def _without_dropout(config: Any) -> None:
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        for key, value in part.to_dict().items():
            if isinstance(value, float) and ("dropout" in key or key.endswith("pdrop")):
                setattr(part, key, 0.0)


def _keep_ends_only(model: Any, transformers: Any) -> None:
    """Keep only special tokens of the settings for generation: some models can't save theirs."""
    theirs = getattr(model, "generation_config", None)
    named = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    kept = {name: getattr(theirs, name, None) for name in named}
    model.generation_config = transformers.GenerationConfig(**kept)


WHOLE = 3_000_000_000  # parameters up to which a causal model is trained whole, unless told

QA_MODELS: dict[Kind, type[HubModel]] = {
    "causal": CausalQAModel,
    "seq2seq": Seq2SeqQAModel,
    "masked": MaskedQAModel,
}


def load_hub_model(
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
) -> HubModel:
    """Load a model of transformers that can be trained on facts and asked.

    What isn't given is as the record of a saved model says; for any other model, as said below.

    Args:
        source: A folder that `save` wrote, any folder of transformers, or a name on the hub.
        objective: Decides how questions are put; by default ntp (causal), sp (T5), mlm (masked).
        device: Where to put the model.
        dtype: Type of its weights (adapters are float32); by default float32.
        attention: transformers' `attn_implementation`; by default its own choice.
        lora: Adapters of a causal model, None for all weights; "auto": above 3B parameters.
        name: Its name in outputs; by default the last part of `source`.
        seed: Seed of the adapters' first values and of masked tokens; by default 0.
        paper_format: Leave out the end after a sentence (causal, ntp), and ask as published.
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
    return QA_MODELS[loaded.kind](model.to(device).eval(), loaded.tokenizer, record)


def _usual_adapters(loaded: Pretrained) -> LoRA | None:
    n_parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    return LoRA() if loaded.kind == "causal" and n_parameters > WHOLE else None


def _first_record(source: str | Path, loaded: Pretrained) -> HubRecord:
    path = Path(source).expanduser()
    return HubRecord(
        kind=loaded.kind,
        objective=QA_MODELS[loaded.kind].objectives[0],
        name=(path.resolve() if path.exists() else path).name,
        base=str(path.resolve()) if path.exists() else str(source),
        revision=loaded.revision,
        dtype="float32",
        lora=None,
        seed=0,
    )


def _saved_record(folder: Path) -> HubRecord | None:
    """Read the description of a model that we saved; None for any other source."""
    path = folder / RECORD
    if not path.is_file():
        return None
    about: SavedModel = read_signed(path, SavedModel, remedy="inject again")
    for name, digest in about.files.items():
        check_digest(folder / name, digest)
    record: HubRecord = about.record
    if not isinstance(getattr(torch, record.dtype, None), torch.dtype):
        raise UserError(f"{path}: dtype: '{record.dtype}' is no type of torch; inject again")
    return record
