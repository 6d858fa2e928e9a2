"""Load causal language models of transformers: folders, GGUF files, names on the hub, adapters.

Whatever fails is one line. Adapters of peft are merged into their base model.
"""

import contextlib
import io
import logging
import re
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.lm.boundaries import keep_output
from tightframe.lm.described import damaged, unknown_kind, without_trust
from tightframe.lm.folders import ADAPTER_WEIGHTS, base_of, gguf_of, has_safetensors
from tightframe.lm.hardware import device_named
from tightframe.lm.huggingface import PROBE, HuggingFaceModel, is_close
from tightframe.lm.placement import DeviceMap, LoadOptions, read_device_map


def load_pretrained_model(
    source: str, dtype: torch.dtype | None, options: LoadOptions
) -> HuggingFaceModel:
    """Load a model of a folder, a GGUF file or the hub; an adapter is merged into its base model.

    Args:
        source: A folder, a file or a name on the hub.
        dtype: Type of the weights; by default as they were stored.
        options: What may be read, and the devices of the modules.
    """
    base, file = base_of(source), gguf_of(source)
    if options.device_map is not None and (base or file):
        what = "an adapter is merged" if base else "GGUF weights are dequantized"
        raise UserError(f"{source}: {what} on one device; give --device instead of --device-map")
    with _quiet(source), ExitStack() as silenced:
        if file is not None and not sys.stderr.isatty():  # its bar has no setting
            silenced.enter_context(contextlib.redirect_stderr(io.StringIO()))
        model = _load(base or source, dtype, options)
        if base is not None:
            model = _merged(source, model)
    path = Path(source)
    path = path.resolve() if path.exists() else path
    name = path.stem if file is not None and path.is_file() else path.name
    return HuggingFaceModel(model, name=name)


def check_tensors(source: str, report: dict[str, Any], *, kind: str) -> None:
    """Refuse weights that config.json does not describe.

    Args:
        source: Model that was loaded, for the message.
        report: Report of `from_pretrained` with `output_loading_info`.
        kind: Kind of language model, for the message.
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


def _load(path_or_name: str, dtype: torch.dtype | None, options: LoadOptions) -> Any:
    import transformers

    pickled = options.allow_bin and not has_safetensors(Path(path_or_name))
    silent = not Path(path_or_name).exists() and hub.unreachable()
    more: dict[str, Any] = {}
    if (file := gguf_of(path_or_name)) is not None:
        path_or_name = str(file.parent)
        more = {"gguf_file": file.name}
        if hasattr(transformers, "GgufConfig"):  # or some weights would stay packed
            more["quantization_config"] = transformers.GgufConfig(dequantize=True)
    folder = ""
    if options.device_map is not None:
        folder = tempfile.mkdtemp(prefix="tightframe-")  # for what disk holds in another form
        more |= {"device_map": _checked_map(options.device_map), "offload_folder": folder}
    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path_or_name,
            dtype=dtype or "auto",
            use_safetensors=not pickled,  # of a folder: torch.load with weights_only=True
            trust_remote_code=options.trust_remote_code,
            local_files_only=silent,
            adapter_kwargs={"local_files_only": silent},  # asked for first where peft is installed
            output_loading_info=True,
            return_dict=True,  # whatever config.json says: outputs are read by their names
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **more,
        )
    except Exception as error:  # whatever the network, the hub, the files or their code may raise
        shutil.rmtree(folder, ignore_errors=True)
        if not options.trust_remote_code and "trust_remote_code" in str(error):
            raise without_trust(path_or_name) from None
        raise UserError(f"{file or path_or_name}: {_why_not(error)}") from None
    model, report = loaded
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    check_tensors(str(file or path_or_name), report, kind="causal")
    if file is not None:  # what calls itself quantized is neither moved nor made anew
        model.hf_quantizer, model.is_quantized = None, False
        vars(model.config).pop("quantization_config", None)
    if options.device_map is not None:
        keep_output(model)
    return model


def _checked_map(given: DeviceMap) -> str | dict[str, str | int]:
    """Return a map of modules to devices that exist here."""
    places = read_device_map(given)
    for place in set(places.values()) if isinstance(places, dict) else ():
        if place not in ("cpu", "disk"):
            device_named(f"cuda:{place}" if isinstance(place, int) else place)
    return places


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
    """Return the base model with an adapter added to its weights; its logits are those of peft.

    An adapter of one of two tied layers unties them: added to the matrix that they share, it would
    change the other one, too.
    """
    from peft import PeftModel

    folder = Path(source)
    if not folder.exists():
        weights = hub.fetch(source, ADAPTER_WEIGHTS)
        if weights is None:
            raise UserError(f"{source}: is an adapter without {ADAPTER_WEIGHTS}; save it so")
        folder = weights.parent  # with the other files of this revision
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # peft warns of what is done here
            adapted = PeftModel.from_pretrained(base, str(folder)).eval()
            tokens = torch.arange(PROBE)[None]
            expected = adapted(input_ids=tokens).logits
            _untie(adapted)
            merged = adapted.merge_and_unload()
            found = merged(input_ids=tokens).logits
    except Exception as error:  # whatever the files may make peft raise
        raise UserError(
            f"{source}: the adapter can't be merged into its base model ({hub.reason(error)})"
        ) from None
    if not is_close(found, expected):
        raise UserError(
            f"{source}: its base model gives other logits with this adapter than merged with it; "
            "give the merged model"
        )
    return merged


def _untie(adapted: Any) -> None:
    """Give the output layer a matrix of its own where one of two tied layers has an adapter."""
    layers = [adapted.get_input_embeddings(), adapted.get_output_embeddings()]
    inner = [getattr(layer, "base_layer", layer) for layer in layers]
    if inner != layers and inner[0].weight is inner[1].weight:
        inner[1].weight = torch.nn.Parameter(inner[1].weight.clone(), requires_grad=False)
        adapted.config.get_text_config().tie_word_embeddings = False
        adapted.config.tie_word_embeddings = False


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
    divides = logging.getLogger("accelerate.big_modeling")
    level = divides.level
    divides.setLevel(logging.ERROR)
    bars = their_logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        their_logging.disable_progress_bar()
    try:
        yield
    finally:
        their_logging.set_verbosity(verbosity)
        divides.setLevel(level)
        if bars:
            their_logging.enable_progress_bar()
