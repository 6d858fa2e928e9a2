"""Files and revisions of the Hugging Face hub; what goes wrong, in one line and without waiting."""

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from tightframe.errors import UserError

PATIENCE = 2  # seconds in which the hub has to begin an answer


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
