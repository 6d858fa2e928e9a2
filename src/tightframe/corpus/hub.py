"""Files and revisions of the Hugging Face hub; what goes wrong, in one line and without waiting."""

import contextlib
import functools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from tightframe.errors import UserError

T = TypeVar("T")

PATIENCE = 2  # seconds in which the hub has to begin an answer
ATTEMPTS = 5  # at what the hub refuses for a time that it names

# How revisions of public series are named: step1000, stage1-step1000-tokens5B, step-480k-token-7B.
_SERIES = re.compile(
    r"(?:stage(?P<stage>\d+)-)?(?:(?P<branch>[a-z]+\d+)-)?(?:step|checkpoint)[-_]?(?P<step>\d+)"
    r"(?P<thousands>k?)(?:-tokens?-?(?P<tokens>\d+)(?P<unit>[KMBT]))?"
)
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_WEIGHTS = ("model", "pytorch_model", "adapter_model")  # how files of weights begin
# What a model and its tokenizer are read from, beside the weights.
_DESCRIPTIONS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".py")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the hub's client from printing every attempt; the error that ends them says enough."""
    from huggingface_hub.utils import logging as hub_logging

    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def unreachable() -> bool:
    """Return whether the hub gives no answer of any status; False in its offline mode.

    Asked once, before anything is fetched: without an answer the hub's client waits and tries five
    times more, for which it has no setting.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False  # then nothing is asked, and nothing waits
    answered = threading.Event()

    def ask() -> None:
        # Each of the libraries that the client is made with has its own errors.
        with contextlib.suppress(Exception):
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
            answered.set()

    # In a thread, because no setting of the client limits the look-up of the hub's address.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return not answered.is_set()


def check_available(name: str, *files: str) -> None:
    """Refuse a name if nothing answers for it and none of its files was fetched before."""
    import huggingface_hub

    try:
        known = [huggingface_hub.try_to_load_from_cache(name, file) for file in files]
    except huggingface_hub.errors.HFValidationError:
        raise UserError(
            f"{name}: no such folder, and no name on the hub, as NAME or OWNER/NAME"
        ) from None
    if any(isinstance(path, str) for path in known):
        return
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        why = "it was not fetched from the Hugging Face hub before, which HF_HUB_OFFLINE turns off"
    elif unreachable():
        why = "the Hugging Face hub does not answer"
    else:
        return
    raise UserError(f"{name}: no such folder, and {why}")


def reason(error: Exception) -> str:
    """Return the kind of error and the first line of what it says, without classes of Python."""
    first = str(error).strip().partition("\n")[0]
    first = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", first)
    return f"{type(error).__name__}: {first}"


def fetch(name: str, file: str) -> Path | None:
    """Return a file of a model on the hub; None where the model has no such file."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    silent = unreachable()  # then what was fetched before has to do
    try:
        with quiet():
            return Path(huggingface_hub.hf_hub_download(name, file, local_files_only=silent))
    except LocalEntryNotFoundError as error:
        # An earlier answer may have been that there is no such file.
        known = huggingface_hub.try_to_load_from_cache(name, file)
        if known is huggingface_hub._CACHED_NO_EXIST:
            return None
        raise _not_given(f"{name}/{file}", error, silent) from None
    except EntryNotFoundError:
        return None
    except Exception as error:  # whatever the network or the hub may raise
        raise _not_given(f"{name}/{file}", error, silent) from None


class Revision(NamedTuple):
    """Training progress that the name of a revision tells; None is not said."""

    stage: int | None
    branch: str | None  # one of several trainings of a stage, "ingredient3"
    step: int
    tokens: int | None  # that were seen until then


def parse_revision(name: str) -> Revision | None:
    """Return what the name of a revision says; None where it is not that of a step.

    Args:
        name: As the hub lists it: step143000, stage2-ingredient3-step2000-tokens9B, checkpoint-400.
    """
    found = _SERIES.fullmatch(name)
    if found is None:
        return None
    stage, tokens = found["stage"], found["tokens"]
    return Revision(
        None if stage is None else int(stage),
        found["branch"],
        int(found["step"]) * (1000 if found["thousands"] else 1),
        None if tokens is None else int(tokens) * _UNITS[found["unit"]],
    )


class Snapshot(NamedTuple):
    """Files of a model on the hub at one commit."""

    folder: Path
    name: str
    revision: str  # as it was asked for: a branch, a tag or a commit
    commit: str
    subfolder: str = ""  # of the repository, where the model lies


@functools.cache
def snapshot(name: str, revision: str, *, allow_bin: bool = False, subfolder: str = "") -> Snapshot:
    """Fetch a model at a revision, and what is needed to read it; nothing is fetched twice.

    The revision is resolved to a commit first, so that all files are of one.

    Args:
        name: NAME or OWNER/NAME.
        revision: A branch, a tag or a commit.
        allow_bin: Take pickled weights where there are no others.
        subfolder: Folder of the repository that the model lies in.
    """
    import huggingface_hub
    from huggingface_hub import constants

    given = f"{name}@{revision}"
    offline = constants.HF_HUB_OFFLINE
    if not offline and unreachable():
        raise UserError(f"{given}: the Hugging Face hub does not answer")
    try:
        with quiet():
            if offline:  # then only what was fetched under this commit is there
                folder = huggingface_hub.snapshot_download(
                    name, revision=revision, local_files_only=True
                )
                return Snapshot(Path(folder) / subfolder, name, revision, revision, subfolder)
            found = huggingface_hub.HfApi().model_info(name, revision=revision)
            commit = str(found.sha)
            files = [one.rfilename for one in found.siblings or ()]
            place = f"{subfolder}/" if subfolder else ""
            inner = [file.removeprefix(place) for file in files if file.startswith(place)]
            if subfolder and not inner:
                raise UserError(f"{given}: has no folder {subfolder} at this revision")
            paths = [
                huggingface_hub.hf_hub_download(name, place + file, revision=commit)
                for file in needed_files(given, inner, allow_bin=allow_bin)
            ]
    except UserError:
        raise
    except huggingface_hub.errors.RevisionNotFoundError:
        raise UserError(f"{given}: the model has no such revision") from None
    except Exception as error:  # whatever the network or the hub may raise
        if offline:
            raise UserError(
                f"{given}: was not fetched before, and HF_HUB_OFFLINE is set; offline, name the "
                "commit that was fetched"
            ) from None
        raise _not_given(given, error) from None
    return Snapshot(Path(paths[0]).parent, name, revision, commit, subfolder)


class ListedFile(NamedTuple):
    """File of a model as the hub lists it."""

    name: str
    size: int  # bytes
    digest: str  # SHA-256 of a large file, else the identifier of its blob in git


def references(name: str) -> dict[str, str]:
    """Return the commit of every branch and tag of a model on the hub, by one request."""
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise UserError(f"{name}: HF_HUB_OFFLINE is set, and revisions are listed by the hub")
    if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", name, flags=re.ASCII):
        raise UserError(f"{name}: no such folder, and no name on the hub, as NAME or OWNER/NAME")
    if unreachable():
        raise UserError(f"{name}: no such folder, and the Hugging Face hub does not answer")
    found = _patiently(name, lambda: huggingface_hub.HfApi().list_repo_refs(name))
    return {one.name: one.target_commit for one in (*found.tags, *found.branches)}


def listed_files(name: str, commit: str) -> list[ListedFile]:
    """Return the files of a model at a commit, by one request; nothing is downloaded."""
    import huggingface_hub
    from huggingface_hub.hf_api import RepoFile

    def listed() -> list[ListedFile]:
        entries = huggingface_hub.HfApi().list_repo_tree(name, revision=commit)
        return [
            ListedFile(one.path, one.size, one.lfs.sha256 if one.lfs else one.blob_id)
            for one in entries
            if isinstance(one, RepoFile)
        ]

    return _patiently(f"{name}@{commit[:12]}", listed)


def download(name: str, commit: str, file: ListedFile, folder: Path) -> None:
    """Download a file of a model at a commit into a folder, past the cache on this machine."""
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    os.environ.setdefault("HF_XET_CHUNK_CACHE_SIZE_BYTES", "0")  # which would hold all of it again
    disable_progress_bars("huggingface_hub.http_get")  # of every thread

    def get() -> str:
        return huggingface_hub.hf_hub_download(name, file.name, revision=commit, local_dir=folder)

    what = f"{name}@{commit[:12]}/{file.name}"
    size = Path(_patiently(what, get)).stat().st_size
    if size != file.size:
        raise UserError(f"{what}: {size:,} bytes came, expected {file.size:,}; run again")


def _patiently(what: str, ask: Callable[[], T]) -> T:
    """Return what the hub answers; where it says to come back later, wait as long as it says."""
    import huggingface_hub

    for attempt in range(ATTEMPTS):
        try:
            with quiet():
                return ask()
        except huggingface_hub.errors.RevisionNotFoundError:
            raise UserError(f"{what}: the model has no such revision") from None
        except huggingface_hub.errors.GatedRepoError:
            raise UserError(
                f"{what}: is gated; accept its terms on the hub, and run `hf auth login`"
            ) from None
        except huggingface_hub.errors.RepositoryNotFoundError:
            raise UserError(
                f"{what}: the hub has no such model; if it is private, run `hf auth login`"
            ) from None
        except Exception as error:  # whatever the network or the hub may raise
            responses = [getattr(one, "response", None) for one in (error, error.__cause__)]
            after = [one.headers.get("Retry-After", "") for one in responses if one is not None]
            if attempt + 1 == ATTEMPTS or not (after and after[0].isdecimal()):
                raise _not_given(what, error) from None
            time.sleep(int(after[0]))
    raise AssertionError("the last attempt returns or raises")


def weight_files(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of weights among those of a model, by format: safetensors, bin.

    Others are copies, optimizers and settings: these are named as transformers and peft name them.
    """
    own = [name for name in names if "/" not in name and name.startswith(_WEIGHTS)]
    formats = {kind: [n for n in own if n.endswith(f".{kind}")] for kind in ("safetensors", "bin")}
    return {kind: found for kind, found in formats.items() if found}


def needed_files(given: str, files: Sequence[str], *, allow_bin: bool) -> list[str]:
    """Return those files that a model is read from, in one format of weights."""
    described = [name for name in files if "/" not in name and name.endswith(_DESCRIPTIONS)]
    weights = weight_files(files)
    if "safetensors" in weights:
        return described + weights["safetensors"]
    if not weights:
        raise UserError(f"{given}: has no weights at this revision; choose another one")
    if not allow_bin:
        raise UserError(
            f"{given}: has its weights as {weights['bin'][0]} only; give --allow-bin to read them "
            "(by torch's loader of bare tensors, which runs no code)"
        )
    return described + weights["bin"]


def data_set_revision(name: str) -> str | None:
    """Return the commit of a hub data set's main branch; None in offline mode."""
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return None  # what was fetched before is read, whichever it was
    if unreachable():
        raise UserError(f"hf:{name}: the Hugging Face hub does not answer")
    try:
        with quiet():
            return str(huggingface_hub.HfApi().dataset_info(name).sha)
    except Exception as error:  # whatever the network or the hub may raise
        raise _not_given(f"hf:{name}", error) from None


def _not_given(what: str, error: Exception, silent: bool = False) -> UserError:
    why = "does not answer" if silent else f"did not give it ({reason(error)})"
    return UserError(f"{what}: the Hugging Face hub {why}")
