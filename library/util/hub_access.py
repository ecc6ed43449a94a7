"""Reaching models on the hub: repositories that moved, and tokens that stand in the way of public ones."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

T = TypeVar("T")

KNOCK = 5.0
"""Seconds that the hub has to answer the door."""
PRIVILEGE_NOT_HELD = "WinError 1314"
"""Windows' error for a symbolic link without Developer Mode or administrator's rights."""
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}
"""Old id in lower case -> mirror with the same files (the owner deleted its organisation in 2024)."""


def mirror_of(repo: str) -> str | None:
    """The present place of a repository that was removed; None where it was not, or no mirror is known."""
    return MOVED.get(repo.strip().lower())


def present_place(repo: str) -> str:
    """The repository to ask for: the mirror of a removed one, else the one that was typed."""
    return mirror_of(repo) or repo


def patiently(ask: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function of huggingface_hub, and once more without a token where the hub refuses the token that is set.

    A token that is cut off or expired makes even public repositories look missing. Raises what the first call raised
    where the second fails too.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError

    try:
        return _without_links_where_refused(ask, *args, **kwargs)
    except (EntryNotFoundError, GatedRepoError):
        raise
    except HfHubHTTPError as refused:
        if refused.response.status_code not in (400, 401) or not get_token():
            raise
        try:
            return ask(*args, token=False, **kwargs)
        except HfHubHTTPError:
            raise refused from None


def _without_links_where_refused(ask: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call, and once more with copies in the cache where Windows grants no symbolic links (no Developer Mode).

    huggingface_hub tries links out in its cache folder first; where they work there and not from drive to drive, this
    error comes through.
    """
    from huggingface_hub import constants

    try:
        return ask(*args, **kwargs)
    except OSError as refused:
        if PRIVILEGE_NOT_HELD not in str(refused):
            raise
        constants.HF_HUB_DISABLE_SYMLINKS = True
        return ask(*args, **kwargs)


def go_offline() -> None:
    """Let huggingface_hub use its cache alone from now on, where the hub was found to be out of reach."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


def offline_where_unreachable() -> None:
    """Knock at the hub once; where nobody answers, let huggingface_hub use its cache alone.

    Without this it asks for every file of a repository six times, half a minute each. Behind a proxy nothing is known
    before one asks it, so nothing is decided.
    """
    from huggingface_hub import constants

    address = urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or getproxies():
        return
    try:
        socket.create_connection((address.hostname, address.port or (80 if address.scheme == "http" else 443)), KNOCK).close()
    except OSError:
        go_offline()
