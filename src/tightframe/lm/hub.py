"""Models from anywhere: runs and checkpoints of ours, Hugging Face folders, names on the hub.

And their random twins, which show what a measure is without training.
"""

import copy
import hashlib
from pathlib import Path

import torch

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.lm.folders import base_of, check_model, describe
from tightframe.lm.gpt_neo import (
    difference_from_ours,
    export_gpt_neo,
    from_gpt_neo,
    import_gpt_neo,
)
from tightframe.lm.huggingface import HuggingFaceModel
from tightframe.lm.pretrained import load_huggingface
from tightframe.lm.runs import Run
from tightframe.lm.transformer import FORMAT, Transformer, load_checkpoint

__all__ = [
    "HuggingFaceModel",
    "digest_of",
    "export_gpt_neo",
    "import_gpt_neo",
    "load_model",
    "random_twin",
]


def load_model(
    path_or_name: str | Path,
    *,
    step: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Transformer | HuggingFaceModel:
    """A language model, ready to be measured.

    Args:
        path_or_name: A run directory, a checkpoint folder of ours, a Hugging Face folder, or a
            name on the hub. Any GPT-Neo becomes our Transformer, which is faster.
        step: Which checkpoint of a run; by default the last.
        device: Where it should lie; by default the CPU.
        dtype: Of the weights; by default as they were stored.
        trust_remote_code: Run Python code that comes with a Hugging Face model.
    """
    folder = Path(path_or_name).expanduser()
    model: Transformer | HuggingFaceModel
    if (folder / "config.toml").is_file():
        model = _load_run(Run.open(folder), step)
    elif step is not None:
        raise UserError(f"{path_or_name}: is no run directory, so it has no step {step}")
    else:
        check_model(path_or_name)
        source = folder if folder.exists() else str(path_or_name)
        model = _load_foreign(source, dtype, trust_remote_code)
    return model.to(device=device, dtype=dtype).eval()


def random_twin(
    model: Transformer | HuggingFaceModel, *, seed: int
) -> Transformer | HuggingFaceModel:
    """The same architecture with weights as they were before any training; the model is kept.

    Args:
        model: Its configuration, dtype and device are taken, and its name with "-random".
        seed: Of the draws, which are made in float32 on the CPU: the same on any device.
    """
    name, classifier = f"{model.name}-random", model.classifier
    if isinstance(model, Transformer):
        ours = Transformer(model.config, seed=seed, name=name)
        return ours.to(classifier.device, classifier.dtype).eval()
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


def digest_of(model: Transformer | HuggingFaceModel) -> str:
    """SHA-256 of all weights by name: what tells a model from another of the same name."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)} ".encode())
        content = parameter.detach().cpu().contiguous().view(torch.uint8).numpy()
        digest.update(content.data)
    return digest.hexdigest()


def _load_run(run: Run, step: int | None) -> Transformer:
    model = load_checkpoint(run.checkpoint(run.kept(step)))
    model.name = run.name
    return model


def _load_foreign(
    source: Path | str, dtype: torch.dtype | None, trust_remote_code: bool
) -> Transformer | HuggingFaceModel:
    """Load a folder that is no run, or a name on the hub; a GPT-Neo becomes our Transformer."""
    if isinstance(source, Path) and base_of(source) is None:
        config = describe(source)
        if config.get("format") == FORMAT:
            return load_checkpoint(source)
        if not difference_from_ours(config):
            return import_gpt_neo(source)
    loaded = load_huggingface(str(source), dtype=dtype, trust_remote_code=trust_remote_code)
    config = loaded.model.config.to_dict()
    if difference_from_ours(config):
        return loaded
    return from_gpt_neo(config, loaded.model.state_dict(), name=loaded.name)
