"""Load a model from anywhere: runs and checkpoints of ours, Hugging Face folders, names on the Hub.

Models of transformers load with the adapters of peft merged into them, or are refused in one line.
A model's own tokenizer tells whether tokens mean to it what they mean here.
"""

import contextlib
import copy
import hashlib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch
from torch import nn

from tightframe.corpus import hub
from tightframe.corpus.shards import TokenShards
from tightframe.corpus.tokenizer import token_names, vocab_size
from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.formats import read_json
from tightframe.lm.checkpoints import (
    FORMAT,
    difference_from_ours,
    from_gpt_neo,
    import_gpt_neo,
    load_checkpoint,
)
from tightframe.lm.folders import (
    ADAPTER_WEIGHTS,
    base_of,
    check_model,
    damaged,
    describe,
    has_safetensors,
    locate,
    unknown_kind,
    with_tokenizer,
    without_trust,
)
from tightframe.lm.frozen import unwrapped
from tightframe.lm.runs import Run
from tightframe.lm.transformer import Transformer

if TYPE_CHECKING:  # a run of ours needs neither
    from tightframe.corpus.model_tokenizer import ModelTokenizer
    from tightframe.lm.huggingface import HuggingFaceModel

Model: TypeAlias = Union[Transformer, "HuggingFaceModel"]  # imported where it is used


def check_tokenizer(source: str | Path, shards: TokenShards) -> None:
    """Refuse tokens whose ids mean something else to the model.

    Every token of the corpus' tokenizer must have the same id in the model's own, which may know
    more. A model that comes without a tokenizer.json is believed.

    Args:
        source: A run, a folder, or a name on the hub, as for `load_model`.
        shards: Tokens that the model is to be measured on.
    """
    own = own_tokenizer(source)
    if own is None or _is_file_of(own, shards):
        return
    known_own = _load_tokenizer(own)
    if known_own is None:
        return
    theirs = known_own.tokenizer.get_vocab(with_added_tokens=True)
    ours = shards.tokenizer.get_vocab(with_added_tokens=True)
    for token, index in sorted(ours.items(), key=lambda item: item[1]):
        known = theirs.get(token)
        if known != index:
            other = "none" if known is None else f"id {known}"
            raise UserError(
                f"{shards.path}: not tokenized as {source} expects: token {token!r} has id {index} "
                f"in these tokens and {other} in the model; build them with the model's tokenizer"
            )


def check_words(
    source: str | Path, tokens: Sequence[int], words: Sequence[str], *, what: str
) -> None:
    """Refuse token ids that mean other words to the model; one without a tokenizer is believed.

    Args:
        source: A run, a folder, or a name on the hub, as for `load_model`.
        tokens: Ids.
        words: Each of them as the tokenizer writes it or as `token_names` does; none if
            unknown.
        what: File or folder that holds them, for the message.
    """
    own = own_tokenizer(source)
    if own is None or not words:
        return
    known_own = _load_tokenizer(own)
    if known_own is None:
        return
    theirs = known_own.tokenizer
    names = token_names(theirs, vocab_size(theirs))
    for index, word in zip(tokens, words, strict=True):
        known = theirs.id_to_token(index)
        if known is None or word not in (known, names[index]):
            raise UserError(
                f"{what}: not tokenized as {source} expects: token {index} is {word!r} here and "
                f"{known!r} in the model; make it from tokens of the model's own tokenizer"
            )


def beginning_of_sequence(source: str | Path) -> int | None:
    """Return the id that the model's own tokenizer puts before a text; None if it puts none."""
    own = own_tokenizer(source)
    known_own = None if own is None else _load_tokenizer(own)
    return None if known_own is None else known_own.beginning_of_sequence


def own_tokenizer(source: str | Path) -> Path | str | None:
    """Return the tokenizer's file, beside the weights or a run's tokens, or a hub name."""
    folder = Path(source).expanduser()
    if (folder / "config.toml").is_file():
        return _trained_on(Run.open(folder))
    source = with_tokenizer(source)
    folder = Path(source).expanduser()
    if (folder / "tokenizer.json").is_file():
        return folder / "tokenizer.json"
    return None if folder.exists() or isinstance(source, Path) else source


def _load_tokenizer(own: Path | str) -> "ModelTokenizer | None":
    """Load a model's tokenizer; None where the hub has none of this name, or can't be asked."""
    from tightframe.corpus.model_tokenizer import load_tokenizer

    try:
        return load_tokenizer(own)
    except UserError:
        if isinstance(own, Path):
            raise
        return None


def _trained_on(run: Run) -> Path | None:
    """Return the tokenizer of a run's tokens; None if they are gone or have changed."""
    manifest, tokenizer = (
        Path(run.settings.tokens) / name for name in ("manifest.json", "tokenizer.json")
    )
    if not manifest.is_file() or not tokenizer.is_file():
        return None
    same = read_json(manifest).get("fingerprint") == run.facts["tokens"]
    return tokenizer if same else None


def _is_file_of(own: Path | str, shards: TokenShards) -> bool:
    return isinstance(own, Path) and sha256(own) == shards.manifest["tokenizer"]["sha256"]


def as_language_model(model: nn.Module, *, name: str) -> Model:
    """Return an unwrapped model as a LanguageModel: ours as it is, others as transformers'.

    Call it inside `left_as_found`: a model of transformers is tried out, in evaluation mode.
    """
    if isinstance(model, Transformer):
        return model
    from tightframe.lm.huggingface import HuggingFaceModel

    if isinstance(model, HuggingFaceModel):
        return model
    if not hasattr(model, "get_output_embeddings"):
        raise TypeError(
            f"{type(model).__name__} is neither tightframe's Transformer nor a causal language "
            "model of transformers"
        )
    return HuggingFaceModel(model, name=name)


def _load_transformers(
    source: str, dtype: torch.dtype | None, trust_remote_code: bool, allow_bin: bool
) -> "HuggingFaceModel":
    """Load a model of a local folder or of the hub; an adapter is merged into its base model."""
    from tightframe.lm.huggingface import HuggingFaceModel

    base = base_of(source)
    with _quiet(source):
        model = _load(base or source, dtype, trust_remote_code, allow_bin)
        if base is not None:
            model = _merged(source, model)
    path = Path(source)
    return HuggingFaceModel(model, name=(path.resolve() if path.exists() else path).name)


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


def _load(
    path_or_name: str, dtype: torch.dtype | None, trust_remote_code: bool, allow_bin: bool
) -> Any:
    from transformers import AutoModelForCausalLM

    pickled = allow_bin and not has_safetensors(Path(path_or_name))
    silent = not Path(path_or_name).exists() and hub.unreachable()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path_or_name,
            dtype=dtype or "auto",
            use_safetensors=not pickled,  # of a folder: torch.load with weights_only=True
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


def load_model(
    source: str | Path | nn.Module,
    *,
    step: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    allow_bin: bool = False,
) -> Model:
    """Load a language model, ready to be measured: `embed(inputs)`, `classifier`, `head`.

    Args:
        source: A run directory (RUN@STEP for one of its checkpoints), a checkpoint folder of ours,
            a Hugging Face folder, or a name on the hub (NAME@REVISION for a branch, tag or
            commit); any GPT-Neo becomes our Transformer, which is faster. Or a model: one of
            transformers, perhaps in its training, or one of ours. It is used, not copied, and put
            into evaluation mode.
        step: Checkpoint of a run; by default the last.
        device: Device of the weights; by default the CPU, or where a given model is.
        dtype: Type of the weights; by default as they were stored.
        trust_remote_code: Run Python code that comes with a Hugging Face model.
        allow_bin: Read pickled weights (pytorch_model.bin) where there are no safetensors.
    """
    model: Model
    if isinstance(source, nn.Module):
        if step is not None:
            raise UserError(f"{type(source).__name__}: is a model, so it has no step {step}")
        inner = unwrapped(source)
        described = getattr(getattr(inner, "config", None), "_name_or_path", None)
        model = as_language_model(inner, name=Path(described or type(inner).__name__).name)
        return model.to(device=device, dtype=dtype).eval()
    where = locate(source, step, allow_bin=allow_bin)
    folder = Path(where.source).expanduser()
    if (folder / "config.toml").is_file():
        run = Run.open(folder)
        model = load_checkpoint(run.checkpoint(run.kept(where.step)))
        model.name = run.name
    elif step is not None:
        raise UserError(f"{source}: is no run directory, so it has no step {step}")
    else:
        check_model(where.source, allow_bin=allow_bin)
        foreign = folder if folder.exists() else str(source)
        model = _load_foreign(foreign, dtype, trust_remote_code, allow_bin)
        model.name = model.name if where.snapshot is None else where.name
    return model.to(device=device, dtype=dtype).eval()


def randomly_initialized(model: Model, *, seed: int) -> Model:
    """Return a randomly initialized control: a model's architecture before any training.

    Args:
        model: Its configuration, dtype and device are taken, and its name with "-random".
        seed: Seed of the draws, which are made in float32 on the CPU: the same on any device.
    """
    name, classifier = f"{model.name}-random", model.classifier
    if isinstance(model, Transformer):
        ours = Transformer(model.config, seed=seed, name=name)
        return ours.to(classifier.device, classifier.dtype).eval()
    from tightframe.lm.huggingface import HuggingFaceModel

    kept = getattr(model.model, "get_base_model", lambda: model.model)()  # without peft's wrapper
    config = copy.deepcopy(kept.config)
    config.dtype = torch.float32  # saving a model leaves its name there, of which none is made
    try:
        with torch.random.fork_rng(devices=[]):  # transformers draws from torch's own generator
            torch.default_generator.manual_seed(seed)
            theirs = type(kept)(config)
    except Exception as error:  # whatever the code of a model may raise
        raise UserError(f"{name}: can't be made ({hub.reason(error)})") from error
    return HuggingFaceModel(theirs.to(classifier.device, classifier.dtype), name=name).eval()


def digest_of(model: Model) -> str:
    """Return the SHA-256 of all weights by name, which tells models of one name apart."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)} ".encode())
        content = parameter.detach().cpu().contiguous().view(torch.uint8).numpy()
        digest.update(content.data)
    return digest.hexdigest()


def _load_foreign(
    source: Path | str, dtype: torch.dtype | None, trust_remote_code: bool, allow_bin: bool
) -> Model:
    """Load a folder that is no run, or a name on the hub; a GPT-Neo becomes our Transformer."""
    if isinstance(source, Path) and base_of(source) is None:
        config = describe(source)
        if config.get("format") == FORMAT:
            return load_checkpoint(source)
        if not difference_from_ours(config) and has_safetensors(source):
            return import_gpt_neo(source)
    loaded = _load_transformers(str(source), dtype, trust_remote_code, allow_bin)
    config = loaded.model.config.to_dict()
    if difference_from_ours(config):
        return loaded
    return from_gpt_neo(config, loaded.model.state_dict(), name=loaded.name)
