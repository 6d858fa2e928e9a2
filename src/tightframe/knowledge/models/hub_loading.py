"""Models and tokenizers of transformers, and adapters of peft: loaded, or refused in one line.

Both libraries are imported when something is loaded: they are an extra (`tightframe[hf]`).
"""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.knowledge.models.hub_base import Kind, LoRA, quietly
from tightframe.lm.folders import check_loadable
from tightframe.lm.hub import check_tensors

ADAPTERS = "adapter_model.safetensors"

_CLASSES = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "masked": "AutoModelForMaskedLM",
}


class Loaded(NamedTuple):
    """What a folder or a name of the hub holds."""

    model: Any
    tokenizer: Any
    kind: Kind
    revision: str | None  # the commit on the hub


def load_pretrained(
    source: str, *, revision: str | None, dtype: torch.dtype, attention: str | None
) -> Loaded:
    """Weights from safetensors, without dropout, and a fast tokenizer; no code of theirs is run.

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
    return Loaded(model, tokenizer, kind, getattr(config, "_commit_hash", None))


def kind_of(config: Any) -> Kind:
    """What a configuration describes: by its architecture, else by what its class is made for."""
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
    """Adapters that change nothing yet, in float32; drawn on the CPU: the same on any device."""
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
    """Adapters of a folder, to be trained on."""
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
    """A module of the extra; a user who lacks it is told how to get it."""
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
    """Of settings for generation only the special tokens: some models ship ones they can't save."""
    theirs = getattr(model, "generation_config", None)
    named = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    kept = {name: getattr(theirs, name, None) for name in named}
    model.generation_config = transformers.GenerationConfig(**kept)
