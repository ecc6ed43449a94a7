"""One question to the hub: can this repository be read with this token? The answer is a plain record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from library.preflight.machine import Machine
from library.preflight.tokens import Token
from library.util.secrets import reason

TIMEOUT = 6.0
"""Seconds for one request."""
PAUSES: tuple[float, ...] = (0.5, 1.5)
"""Seconds before the second and the third try, where the server is busy."""
Kind = Literal["ok", "refused", "gated", "not_found", "busy", "unreachable", "offline"]


@dataclass(frozen=True)
class Answer:
    """What the hub said about a repository."""

    kind: Kind
    status: int = 0
    reason: str = ""
    """For ``unreachable``: dns, proxy, ssl, timeout, connection; else the server's words."""
    detail: str = ""
    files: tuple[str, ...] = ()
    library: str = ""
    public: bool = False
    """True where it can be read without a token."""


@dataclass(frozen=True)
class User:
    """Who a token belongs to and what it may do."""

    name: str = ""
    role: str = ""
    """``read``, ``write``, ``fineGrained``."""
    scopes: tuple[str, ...] = field(default=())
    gated: bool = True
    """A fine-grained token's permission to read gated repositories."""


def endpoint(machine: Machine) -> str:
    """The hub's address: ``HF_ENDPOINT`` or the usual one."""
    return (machine.env.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_offline(machine: Machine) -> str:
    """The variable that switches the hub off, "" where none does."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if machine.env.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return name
    return ""


def ask(machine: Machine, repo: str, token: Token | None) -> Answer:
    """Ask for a repository's file list; busy servers are asked again, a refused token is tried without."""
    from huggingface_hub import HfApi

    if is_offline(machine):
        return Answer("offline", reason=is_offline(machine))
    api = HfApi(endpoint=endpoint(machine))
    answer = _ask_patiently(api, repo, token.value if token else False)
    if token is not None and answer.kind in ("refused", "not_found", "gated"):
        without = _ask_patiently(api, repo, False)
        if without.kind == "ok":
            return Answer("refused", answer.status, answer.reason, answer.detail, without.files, without.library, public=True)
    return answer


def _ask_patiently(api: Any, repo: str, token: str | bool) -> Answer:
    answer = _ask_once(api, repo, token)
    for pause in PAUSES:
        if answer.kind != "busy":
            break
        time.sleep(pause)
        answer = _ask_once(api, repo, token)
    return answer


def _ask_once(api: Any, repo: str, token: str | bool) -> Answer:
    from huggingface_hub import errors

    try:
        info = api.model_info(repo, token=token, timeout=TIMEOUT)
        files = tuple(s.rfilename for s in info.siblings or ())
        if info.gated:  # the list of a gated repository is public, its files are not
            return _gate(api, repo, token, files)
        return Answer("ok", 200, files=files, library=info.library_name or "", public=token is False)
    except errors.HfHubHTTPError as error:
        return _by_status(error)
    except errors.OfflineModeIsEnabled:
        return Answer("offline", reason="HF_HUB_OFFLINE")
    except errors.HFValidationError as error:
        return Answer("not_found", 0, "name", reason(error))
    except transport_errors() as error:
        return Answer("unreachable", 0, why_unreachable(error), type(error).__name__)


def _gate(api: Any, repo: str, token: str | bool, files: tuple[str, ...]) -> Answer:
    """Ask whether a gated repository is open for this token."""
    from huggingface_hub import errors

    try:
        api.auth_check(repo, token=token)
        return Answer("ok", 200, files=files)
    except errors.GatedRepoError as error:
        return Answer("gated", error.response.status_code, files=files)
    except errors.HfHubHTTPError as error:
        return _by_status(error)


def _by_status(error: Any) -> Answer:
    from huggingface_hub import errors

    status = error.response.status_code
    words = (error.server_message or "").strip()
    if isinstance(error, errors.GatedRepoError):
        return Answer("gated", status, detail=words)
    if (
        status == 401
        and "invalid" not in words.lower()
        and "credentials" not in words.lower()
        and error.response.headers.get("X-Error-Code") == "RepoNotFound"
    ):
        return Answer("not_found", status, detail=words)
    if status == 401 or (status == 400 and "token" in words.lower()):
        return Answer("refused", status, "expired" if "expired" in words.lower() else "", words)
    if status == 403:
        return Answer("gated", status, detail=words)
    if status in (404, 410):
        return Answer("not_found", status, detail=words)
    if status == 429 or status >= 500:
        return Answer("busy", status, detail=words)
    return Answer("unreachable", status, "connection", words or f"HTTP {status}")


def who(machine: Machine, token: Token) -> User | None:
    """Whose token it is; None where the hub does not accept it or cannot be reached."""
    from huggingface_hub import HfApi, errors

    try:
        data = HfApi(endpoint=endpoint(machine)).whoami(token=token.value)
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, *transport_errors()):
        return None
    access = data.get("auth", {}).get("accessToken", {})
    fine = access.get("fineGrained", {})
    scopes = tuple(p for scope in fine.get("scoped", []) for p in scope.get("permissions", []))
    return User(data.get("name", "?"), access.get("role", ""), scopes, bool(fine.get("canReadGatedRepos", True)))


def transport_errors() -> tuple[type[BaseException], ...]:
    """Errors of the connection itself, of whichever HTTP library the installed huggingface_hub uses."""
    kinds: list[type[BaseException]] = [ConnectionError, TimeoutError, OSError]
    for name in ("httpx2", "httpx", "requests"):
        kind = _error_of(name)
        if kind is not None:
            kinds.append(kind)
    return tuple(kinds)


def _error_of(name: str) -> type[BaseException] | None:
    import importlib
    import sys

    if name not in sys.modules:
        return None
    module = importlib.import_module(name)
    kinds: dict[str, Callable[[], type[BaseException]]] = {"requests": lambda: module.exceptions.RequestException}
    return kinds.get(name, lambda: module.TransportError)()


def why_unreachable(error: BaseException) -> str:
    """Sort a connection's error by what a person can do about it."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 6:
        chain.append(f"{type(cause).__name__} {cause}".lower())
        cause = cause.__cause__ or cause.__context__
    text = " | ".join(chain)
    if "certificate" in text or "ssl" in text:
        return "ssl"
    if "proxy" in text:
        return "proxy"
    if "timeout" in text or "timed out" in text:
        return "timeout"
    if any(word in text for word in ("getaddrinfo", "name or service", "name resolution", "nodename")):
        return "dns"
    return "connection"
