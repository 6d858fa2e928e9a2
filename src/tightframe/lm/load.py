"""Load a model from anywhere: runs and checkpoints of ours, Hugging Face folders, names on the Hub.

Models of transformers load with the adapters of peft merged into them, or are refused in one line.
A model's own tokenizer tells whether tokens mean to it what they mean here.
"""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import torch
from torch import nn

from tightframe.corpus import hub
from tightframe.corpus.shards import TokenShards
from tightframe.corpus.tokenizer import token_names, vocab_size
from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.formats import read_json
from tightframe.lm.boundaries import is_divided, named_weights
from tightframe.lm.checkpoints import (
    FORMAT,
    difference_from_ours,
    from_gpt_neo,
    import_gpt_neo,
    load_checkpoint,
)
from tightframe.lm.folders import (
    base_of,
    check_model,
    describe,
    gguf_of,
    has_safetensors,
    locate,
    with_tokenizer,
)
from tightframe.lm.frozen import unwrapped
from tightframe.lm.placement import DeviceMap, LoadOptions
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
    if (file := gguf_of(folder)) is not None:
        return file
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


def load_model(
    source: str | Path | nn.Module,
    *,
    step: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    allow_bin: bool = False,
    subfolder: str | None = None,
    device_map: DeviceMap | None = None,
) -> Model:
    """Load a language model, ready to be measured: `embed(inputs)`, `classifier`, `head`.

    Args:
        source: A run directory (RUN@STEP for one of its checkpoints), a checkpoint folder of ours,
            a Hugging Face folder, a GGUF file, which is dequantized, or a name on the hub
            (NAME@REVISION for a branch, tag or commit); any GPT-Neo becomes our Transformer, which
            is faster. Or a model: one of transformers, perhaps in its training, or one of ours. It
            is used, not copied, and put into evaluation mode.
        step: Checkpoint of a run; by default the last.
        device: Device of the weights; by default the CPU, or where a given model is.
        dtype: Type of the weights; by default as they were stored.
        trust_remote_code: Run Python code that comes with a Hugging Face model.
        allow_bin: Read pickled weights (pytorch_model.bin) where there are no safetensors.
        subfolder: Folder of the model inside the folder or the repository.
        device_map: "auto", or devices (cuda:0, cpu, disk) by module, for a model of transformers
            that is larger than a device; what crosses from one to another is checked.
    """
    model: Model
    options = LoadOptions(
        trust_remote_code=trust_remote_code, allow_bin=allow_bin, device_map=device_map
    )
    if isinstance(source, nn.Module):
        if step is not None:
            raise UserError(f"{type(source).__name__}: is a model, so it has no step {step}")
        inner = unwrapped(source)
        described = getattr(getattr(inner, "config", None), "_name_or_path", None)
        model = as_language_model(inner, name=Path(described or type(inner).__name__).name)
        return model.eval() if is_divided(inner) else model.to(device=device, dtype=dtype).eval()
    where = locate(source, step, allow_bin=allow_bin, subfolder=subfolder)
    folder = Path(where.source).expanduser()
    if (folder / "config.toml").is_file():
        _check_on_one_device(folder, options)
        run = Run.open(folder)
        model = load_checkpoint(run.checkpoint(run.kept(where.step)))
        model.name = run.name
    elif step is not None:
        raise UserError(f"{source}: is no run directory, so it has no step {step}")
    else:
        check_model(where.source, allow_bin=allow_bin)
        foreign = folder if folder.exists() else str(source)
        model = _load_foreign(foreign, dtype, options)
        model.name = model.name if where.snapshot is None else where.name
    return model.eval() if device_map is not None else model.to(device=device, dtype=dtype).eval()


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
    for name, parameter in named_weights(model):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)} ".encode())
        content = parameter.detach().cpu().contiguous().view(torch.uint8).numpy()
        digest.update(content.data)
    return digest.hexdigest()


def _load_foreign(source: Path | str, dtype: torch.dtype | None, options: LoadOptions) -> Model:
    """Load what is no run of ours; a GPT-Neo on one device becomes our Transformer."""
    if isinstance(source, Path) and base_of(source) is None and gguf_of(source) is None:
        config = describe(source)
        if config.get("format") == FORMAT:
            _check_on_one_device(source, options)
            return load_checkpoint(source)
        one_device = options.device_map is None
        if one_device and not difference_from_ours(config) and has_safetensors(source):
            return import_gpt_neo(source)
    from tightframe.lm.pretrained import load_pretrained_model

    loaded = load_pretrained_model(str(source), dtype, options)
    config = loaded.model.config.to_dict()
    if options.device_map is not None or difference_from_ours(config):
        return loaded
    return from_gpt_neo(config, loaded.model.state_dict(), name=loaded.name)


def _check_on_one_device(folder: Path, options: LoadOptions) -> None:
    if options.device_map is not None:
        raise UserError(
            f"{folder}: is a model of tightframe, which is on one device; give --device instead of "
            "--device-map"
        )
