"""Models of transformers, adapters of peft merged into them: loaded, or refused in one line."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.lm.described import damaged, unknown_kind, without_trust
from tightframe.lm.folders import ADAPTER_WEIGHTS, base_of
from tightframe.lm.huggingface import HuggingFaceModel


def load_huggingface(
    path_or_name: str, *, dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> HuggingFaceModel:
    """Load a model of a local folder or of the Hugging Face hub, from safetensors only.

    Args:
        path_or_name: A folder with config.json, that of an adapter, or a hub name.
        dtype: Of the weights; by default as they were stored.
        trust_remote_code: Run Python code that comes with the model.
    """
    base = base_of(path_or_name)
    with _quiet(path_or_name):
        if base is None:
            model = _load(path_or_name, dtype, trust_remote_code)
        else:
            model = _merged(path_or_name, _load(base, dtype, trust_remote_code))
    path = Path(path_or_name)
    return HuggingFaceModel(model, name=(path.resolve() if path.exists() else path).name)


def check_tensors(source: str, report: dict[str, Any], *, kind: str) -> None:
    """Refuse weights that config.json does not describe.

    Args:
        source: What was loaded, for the message.
        report: What `from_pretrained` says of it with `output_loading_info`.
        kind: Of language model, for the message.
    """
    if misfits := sorted(report["mismatched_keys"]):
        name, *shapes = misfits[0]
        found, expected = (" x ".join(map(str, shape)) or "a number" for shape in shapes)
        raise UserError(
            f"{source}: {name} is {found}, and {expected} by config.json; mend config.json, or "
            "take the weights that it belongs to"
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{source}: lacks {len(missing)} of the model's tensors, first {missing[0]}; the "
            f"checkpoint is incomplete, or not of a {kind} language model"
        )


def _load(path_or_name: str, dtype: torch.dtype | None, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    silent = not Path(path_or_name).exists() and hub.unreachable()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path_or_name,
            dtype=dtype or "auto",
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            local_files_only=silent,
            adapter_kwargs={"local_files_only": silent},  # asked for first where peft is installed
            output_loading_info=True,
            return_dict=True,  # whatever config.json says: outputs are read by their names
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except Exception as error:  # whatever the network, the hub, the files or their code may raise
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise without_trust(path_or_name) from None
        raise UserError(f"{path_or_name}: {_why_not(error)}") from None
    model, report = loaded
    check_tensors(path_or_name, report, kind="causal")
    return model


def _why_not(error: Exception) -> str:
    """Return in plain words why transformers loads no causal language model."""
    text = str(error)
    if found := re.search(r"configuration class <class '[\w.]*?(\w+)Config'>", text):
        return (
            f"is a {found[1]}, of which transformers has no causal language model; expected one, "
            "as GPT-2 and Llama are"
        )
    if found := re.search(r"model type `([^`]+)`", text):
        return unknown_kind(found[1])
    if found := re.search(r"requires the (\S+) library but it was not found", text):
        return f"needs the package {found[1]}; run `pip install {found[1]}`"
    if type(error).__name__ == "SafetensorError":
        return damaged(error)
    return f"transformers can't load this as a causal language model ({hub.reason(error)})"


def _merged(source: str, base: Any) -> Any:
    """Return the base model with an adapter added to its weights."""
    from peft import PeftModel

    folder = Path(source)
    if not folder.exists():
        weights = hub.fetch(source, ADAPTER_WEIGHTS)
        if weights is None:
            raise UserError(f"{source}: is an adapter without {ADAPTER_WEIGHTS}; save it so")
        folder = weights.parent  # with the other files of this revision
    try:
        return PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    except Exception as error:  # whatever the files may make peft raise
        raise UserError(
            f"{source}: the adapter can't be merged into its base model ({hub.reason(error)})"
        ) from None


@contextlib.contextmanager
def _quiet(source: str) -> Iterator[None]:
    """Keep transformers from telling what a UserError tells, and from bars off a terminal."""
    try:
        from transformers import logging as their_logging
    except ImportError:
        raise UserError(
            f"{source}: needs transformers; run `pip install 'tightframe[hf]'`"
        ) from None
    verbosity = their_logging.get_verbosity()
    their_logging.set_verbosity(logging.CRITICAL)
    bars = their_logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        their_logging.disable_progress_bar()
    try:
        yield
    finally:
        their_logging.set_verbosity(verbosity)
        if bars:
            their_logging.enable_progress_bar()
