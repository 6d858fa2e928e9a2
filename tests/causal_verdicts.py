"""Verdicts on causal classes of transformers, made tiny, as docs/models.md has them."""

import tempfile
from pathlib import Path

import safetensors.torch
import torch
import transformers
from torch.testing import assert_close
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from tightframe.errors import UserError
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.interface import PRENORM
from tightframe.lm.load import load_model, randomly_initialized
from tiny_configs import DECODERS, tiny_config, tiny_model
from tiny_models import ids

SECTION = "## Causal classes of transformers"
TEXT = """
Each class is made tiny, with random weights, and tried. `python tools/models_page.py` writes this
section; a slow test (`make test-slow`) compares every line.

- **head**: the classifier, applied to the embeddings, gives the model's own logits.
- **layers**: the embeddings of every layer are the model's own hidden states.
- **prenorm**: the residual stream before the final norm is found (`--layers prenorm`).
- **control**: a copy with new random weights can be made (`--random-weights`).
- **folder**: what `save_pretrained` writes loads as the same model.

A class that is refused is refused when it is loaded, in one line with the reason.
"""
COLUMNS = ("head", "layers", "prenorm", "control", "folder")


@torch.no_grad()
def line(model_type: str) -> str:
    """Return the row of a class; whatever is wrong but not refused raises."""
    name = CLASSES[model_type]
    name = name if isinstance(name, str) else name[0]
    works = dict.fromkeys(COLUMNS, "no")
    reasons: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:

        def attempt(column: str, check: object) -> None:
            try:
                check()  # type: ignore[operator]
                works[column] = "yes"
            except UserError as error:
                reasons.setdefault(_reason(error, folder, name), column)

        try:
            theirs = tiny_model(model_type)
        except Exception:  # transformers can't make it: neither can the loading
            theirs = None
        if theirs is None or model_type in DECODERS:
            _save_without_weights(model_type, folder)
            attempt("folder", lambda: load_model(folder))
            assert works["folder"] == "no"
            return _row(model_type, name, works, reasons)
        try:
            ours = HuggingFaceModel(theirs, name="tiny")
        except UserError as error:
            return _row(model_type, name, works, {_reason(error, folder, name): ""})
        inputs = ids(3, 11)
        visible = torch.ones_like(inputs)  # otherwise some count the tokens of padding
        output = theirs(inputs, attention_mask=visible, output_hidden_states=True, use_cache=False)

        def head() -> None:
            _close(ours.head(ours.embed(inputs)), output.logits)

        def layers() -> None:
            found = ours.embed_layers(inputs, range(ours.depth + 1))
            for stream, expected in zip(found[:-1], output.hidden_states, strict=False):
                _close(stream, expected)

        def prenorm() -> None:
            (stream,) = ours.embed_layers(inputs, [PRENORM])
            assert stream.shape[:2] == inputs.shape

        def control() -> None:
            assert randomly_initialized(ours, seed=0).n_parameters == ours.n_parameters

        def saved() -> None:
            theirs.save_pretrained(folder)
            loaded = load_model(folder)
            _close(loaded.head(loaded.embed(inputs)), output.logits)

        for column, check in zip(COLUMNS, (head, layers, prenorm, control, saved), strict=True):
            attempt(column, check)
    return _row(model_type, name, works, reasons)


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def _save_without_weights(model_type: str, folder: str) -> None:
    tiny_config(model_type).save_pretrained(folder)
    path = Path(folder) / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path, metadata={"format": "pt"})


def _reason(error: UserError, folder: str, name: str) -> str:
    text = str(error)
    assert "\n" not in text
    for opening in (f"{folder}: ", "tiny: ", f"{name} "):
        text = text.removeprefix(opening)
    text = text.rpartition("can't be used: ")[2]
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def _row(model_type: str, name: str, works: dict[str, str], reasons: dict[str, str]) -> str:
    cells = list(works.values())
    if "yes" not in cells:
        cells = ["refused", *["-"] * (len(COLUMNS) - 1)]
    why = "; ".join(
        f"{column}: {text}" if "yes" in cells else text for text, column in reasons.items()
    )
    return "| " + " | ".join([f"`{model_type}`", name, *cells, why]).rstrip() + " |"


def section(lines: list[str]) -> str:
    """Return the section of the page that has the lines."""
    cells = [one.split(" | ")[2:-1] for one in lines]
    n_whole = sum(set(one) == {"yes"} for one in cells)
    n_refused = sum("refused" in one for one in cells)
    found = (
        f"transformers {transformers.__version__} has {len(lines)} causal classes: {n_whole} pass "
        f"every check, {len(lines) - n_whole - n_refused} lack some of it, {n_refused} are refused."
    )
    head = f"| model_type | class | {' | '.join(COLUMNS)} | why not |"
    return "\n".join([SECTION, TEXT, found, "", head, "|---" * 8 + "|", *lines]) + "\n"
