"""Folders of models: our own checkpoints, and GPT-Neo of Hugging Face from and to our Transformer.

A folder of ours holds model.safetensors, and config.json that says what it is: no code, no pickle.
config.json holds the SHA-256 of the weights and a fingerprint of itself, so that a damaged or
altered folder is refused. GPT-Neo needs only its files; transformers is not imported.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from tightframe.corpus import tokenizer as tokenizers
from tightframe.errors import UserError
from tightframe.files import whole_folder
from tightframe.formats import (
    Record,
    Sha256,
    read_json,
    read_listed,
    read_signed,
    write_listed,
    write_signed,
)
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import MLP_RATIO, NORM_EPS, Transformer
from tightframe.settings import resolve

WEIGHTS = "model.safetensors"


CONFIG = "config.json"


REMEDY = "use another checkpoint"


FORMAT = "tightframe-transformer-1"  # what config.json of a checkpoint folder says


class Content(Record):
    """The content of a checkpoint's config.json."""

    format: str
    name: str
    sha256: Sha256  # of the weights
    fingerprint: str
    model: dict[str, Any]  # what the model is, by the class that `format` names


def save_checkpoint(model: Transformer, folder: Path) -> None:
    """Write a new folder with the weights (safetensors) and what they are (config.json)."""
    save_weights(folder, model, format=FORMAT, name=model.name, config=model.config)


def load_checkpoint(folder: Path) -> Transformer:
    """Load a folder that `save_checkpoint` wrote; a damaged or altered one is refused."""
    content = load_content(folder, format=FORMAT)
    config = resolve(TransformerConfig, content.model, source=str(folder / CONFIG))
    tensors = read_listed(folder / WEIGHTS, content.sha256, remedy=REMEDY)
    return from_tensors(config, tensors, name=content.name, source=folder)


def save_weights(folder: Path, model: nn.Module, *, format: str, name: str, config: Any) -> None:
    """Write a new folder with the weights and what they are; `config` is a dataclass."""
    with whole_folder(folder) as temporary:
        content = {
            "format": format,
            "name": name,
            "model": dataclasses.asdict(config),
            "sha256": write_listed(temporary / WEIGHTS, model.state_dict()),
        }
        write_signed(temporary / CONFIG, content)


def load_content(folder: Path, *, format: str) -> Content:
    """Read the config.json of a checkpoint, which says what its weights are."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder")
    path = folder / CONFIG
    if (found := read_json(path, dict[str, Any], remedy=REMEDY).get("format")) != format:
        raise UserError(f"{path}: holds {found!a}, expected a checkpoint of tightframe, {format}")
    content: Content = read_signed(path, Content, remedy=REMEDY)
    return content


def digest_of_weights(folder: Path) -> str:
    """Return the SHA-256 that a checkpoint's config.json lists: which weights it holds."""
    content: Content = read_signed(folder / CONFIG, Content, remedy=REMEDY)
    return content.sha256


def from_tensors(
    config: TransformerConfig, tensors: dict[str, Tensor], *, name: str, source: Path | str
) -> Transformer:
    """Make a Transformer with a copy of these weights; `source` is named in errors."""
    with torch.device("meta"):
        model = Transformer(config, name=name)
    fill(model, tensors, source=source)
    return model


def fill(model: nn.Module, tensors: dict[str, Tensor], *, source: Path | str) -> None:
    """Give a model on the meta device a copy of these weights; `source` is named in errors.

    Tensors of a mapped file are aligned otherwise than torch's own, which changes the last bits
    of products; the copy gives the bits of the model that was saved.
    """
    for name, value in model.state_dict().items():
        if name in tensors and tensors[name].shape != value.shape:
            raise UserError(
                f"{source}: the weights don't fit config.json: {name} is "
                f"{list(tensors[name].shape)}, expected {list(value.shape)}; {REMEDY}"
            )
    copies = {name: value.clone() for name, value in tensors.items()}
    try:
        model.load_state_dict(copies, assign=True)
    except RuntimeError as error:
        reason = str(error).split("\n\t")[1]  # the first line says only that there is one
        raise UserError(f"{source}: the weights don't fit config.json: {reason}") from None


# What a config.json that leaves something out means, and what ours says to have the same.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 50257,
    "hidden_size": 2048,
    "num_layers": 24,
    "num_heads": 16,
    "intermediate_size": None,
    "max_position_embeddings": 2048,
    "attention_types": [[["global", "local"], 12]],
    "window_size": 256,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": NORM_EPS,
}


def import_gpt_neo(folder: str | Path) -> Transformer:
    """Load a Hugging Face GPT-Neo folder as our Transformer."""
    folder = Path(folder)
    config = read_json(folder / "config.json")
    if difference := difference_from_ours(config):
        raise UserError(f"{folder}: {difference} is not what the Transformer has")
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise UserError(f"{folder}: holds no model.safetensors; save it in that format first")
    tensors = {name: value for file in files for name, value in read_listed(file).items()}
    return from_gpt_neo(config, tensors, name=folder.resolve().name)


def from_gpt_neo(
    config: dict[str, Any], tensors: Mapping[str, Tensor], *, name: str
) -> Transformer:
    """Make our Transformer of `GPTNeoForCausalLM`, given as its config and state."""
    ours = _our_config(DEFAULTS | config)
    stacked = {}
    for our_name, parts in _names(ours).items():
        if missing := [part for part in parts if part not in tensors]:
            raise UserError(f"{name}: lacks the tensor {missing[0]}; the checkpoint is incomplete")
        stacked[our_name] = torch.cat([tensors[part] for part in parts])
    return from_tensors(ours, stacked, name=name, source=name)


def difference_from_ours(config: dict[str, Any]) -> str:
    """Return what a Hugging Face config needs that the Transformer lacks; "" if nothing."""
    if config.get("model_type") != "gpt_neo":
        return f"model type {config.get('model_type')!r}"
    config = DEFAULTS | config
    layers = _layers(config)
    allowed = {
        "num_layers": [len(layers)],
        "intermediate_size": [None, MLP_RATIO * config["hidden_size"]],
        "activation_function": ["gelu_new"],
        "layer_norm_epsilon": [NORM_EPS],
    }
    for name, values in allowed.items():
        if config[name] not in values:
            return f"{name} {config[name]!r}"
    if layers not in (_alternating(len(layers)), ["global"] * len(layers)):
        return f"attention layers {layers}"
    return ""


def export_gpt_neo(
    model: Transformer, folder: str | Path, tokenizer: Tokenizer | None = None
) -> None:
    """Write a new folder that transformers loads as `GPTNeoForCausalLM`.

    Args:
        model: With GPT-Neo's attention: no biases on query, key and value, unscaled logits.
        folder: Must not exist.
        tokenizer: Is saved with it, so that `AutoTokenizer` finds it there.
    """
    config = model.config
    if config.attention_bias or config.scale_attention:
        raise UserError(
            f"{model.name}: GPT-Neo has no biases on query, key and value and doesn't scale "
            "attention; only models trained without attention_bias and scale_attention are exported"
        )
    tensors: dict[str, Tensor] = {}
    state = model.state_dict()
    for name, parts in _names(config).items():
        tensors |= zip(parts, state[name].chunk(len(parts)), strict=True)
    end = None if tokenizer is None else tokenizers.end_of_text(tokenizer)
    described = _their_config(config) | {
        "dtype": str(model.classifier.dtype).removeprefix("torch."),
        "bos_token_id": end,
        "eos_token_id": end,
    }
    with whole_folder(Path(folder)) as temporary:
        # Bytes through Python: a full disk is then an OSError, which whole_folder names.
        content = safetensors.torch.save(
            {name: value.contiguous() for name, value in tensors.items()}, metadata={"format": "pt"}
        )
        (temporary / "model.safetensors").write_bytes(content)
        _write_json(temporary / "config.json", described)
        if tokenizer is not None:
            _save_tokenizer(tokenizer, temporary, end, config.positions)


def _our_config(config: dict[str, Any]) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        depth=config["num_layers"],
        heads=config["num_heads"],
        positions=config["max_position_embeddings"],
        window=config["window_size"] if "local" in _layers(config) else 0,
        tied=config["tie_word_embeddings"],
        init_std=config["initializer_range"],
    )


def _their_config(config: TransformerConfig) -> dict[str, Any]:
    layers = _alternating(config.depth) if config.window else ["global"] * config.depth
    return DEFAULTS | {
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_layers": config.depth,
        "num_heads": config.heads,
        "max_position_embeddings": config.positions,
        "attention_types": [[layers, 1]],
        "window_size": config.window or DEFAULTS["window_size"],
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_std,
    }


def _layers(config: dict[str, Any]) -> list[str]:
    """Return the kind of attention of each layer; `[[["global", "local"], 6]]` is 12 of them."""
    types = config["attention_types"]
    return [kind for kinds, times in types for _ in range(times) for kind in kinds]


def _alternating(depth: int) -> list[str]:
    return [("global", "local")[i % 2] for i in range(depth)]


def _names(config: TransformerConfig) -> dict[str, list[str]]:
    """Return our tensors' names, and those of GPT-Neo that are stacked by rows to each."""
    names = {
        "token_embedding": ["transformer.wte.weight"],
        "position_embedding": ["transformer.wpe.weight"],
    }
    if not config.tied:
        names["output"] = ["lm_head.weight"]
    modules = {"norm": "transformer.ln_f"}
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        names[f"{ours}.query_key_value.weight"] = [
            f"{theirs}.attn.attention.{part}_proj.weight" for part in "qkv"
        ]
        modules |= {
            f"{ours}.attention_norm": f"{theirs}.ln_1",
            f"{ours}.attention_out": f"{theirs}.attn.attention.out_proj",
            f"{ours}.mlp_norm": f"{theirs}.ln_2",
            f"{ours}.mlp_in": f"{theirs}.mlp.c_fc",
            f"{ours}.mlp_out": f"{theirs}.mlp.c_proj",
        }
    for ours, theirs in modules.items():
        for part in ("weight", "bias"):
            names[f"{ours}.{part}"] = [f"{theirs}.{part}"]
    return names


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, end: int | None, positions: int) -> None:
    tokenizers.save(tokenizer, folder / "tokenizer.json")
    described: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
    }
    if end is not None:
        described["eos_token"] = tokenizer.id_to_token(end)
    _write_json(folder / "tokenizer_config.json", described)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
