"""What goes wrong with the Hugging Face hub, in one line and without waiting for it."""

import contextlib
import logging
from collections.abc import Iterator


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
    """Whether the hub gives no answer at all, of whatever status; False in its offline mode.

    Asked once, before anything is fetched: without an answer the hub's client waits and tries five
    times more, for which it has no setting.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False  # then nothing is asked, and nothing waits
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # each of the libraries that the client is made with has its own
        return True
    return False


def reason(error: Exception) -> str:
    """The kind of error and the first line of what it says."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"
