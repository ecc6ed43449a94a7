"""Downloads a model file from an https link: once, resumable, checked, with keys from the environment only."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path

from library.util.records import Problem, UserError
from library.util.said import say

CHUNK = 1 << 20
TRIES = 5
KEYS = {
    "civitai.com": "CIVITAI_TOKEN",
    "civitai.red": "CIVITAI_TOKEN",
    "huggingface.co": "HF_TOKEN",
    "hf.co": "HF_TOKEN",
}
"""Host -> environment variable that holds the key for it; sub-domains included."""
SECRET = re.compile(r"(?i)([?&](?:token|api[_-]?key|key|access_token|signature|sig|x-amz-[\w-]+)=)[^&#]*")
Progress = Callable[[int, int], None]
"""(bytes so far, bytes in all or 0) -> None"""


@dataclass(frozen=True)
class Plan:
    """Where one link's file, its unfinished part and its record go."""

    url: str
    folder: Path

    @property
    def part(self) -> Path:
        return self.folder / "unfinished.part"

    @property
    def record(self) -> Path:
        return self.folder / "source.json"


def is_link(text: str) -> bool:
    """Tell a link from a path or a hub id."""
    return text.lower().startswith(("https://", "http://"))


def redacted(url: str) -> str:
    """A link that can be shown: no key, no password."""
    pieces = urllib.parse.urlsplit(url)
    host = pieces.hostname or ""
    host = host if pieces.port is None else f"{host}:{pieces.port}"
    return SECRET.sub(r"\1***", urllib.parse.urlunsplit((pieces.scheme, host, pieces.path, pieces.query, "")))


def cache_folder() -> Path:
    """Where downloads are kept: ``LORA_DOWNLOADS``, else the user's cache folder."""
    if os.environ.get("LORA_DOWNLOADS"):
        return Path(os.environ["LORA_DOWNLOADS"])
    base = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sd-lora-downloads"


def fetch(url: str, folder: Path | None = None, progress: Progress | None = None) -> Path:
    """The file behind an https link, downloaded at the first call and taken from the cache ever after.

    An interrupted download goes on where it stopped; size and, where the server tells it, checksum are verified; the
    file appears under its name only when it is whole. Raises UserError, naming the environment variable where a key
    would help.
    """
    url = _direct(url)
    _require_https(url)
    name = hashlib.sha256(redacted(url).encode()).hexdigest()[:16]
    plan = Plan(url, (folder or cache_folder()) / name)
    done = cached(plan)
    if done is not None:
        return done
    plan.folder.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock  # comes with huggingface_hub

    with FileLock(plan.folder / "lock"):  # the other processes of a run wait, and find the file
        return cached(plan) or _download_with_tries(plan, progress)


def _download_with_tries(plan: Plan, progress: Progress | None) -> Path:
    for attempt in range(TRIES):
        try:
            return _download(plan, progress)
        except urllib.error.HTTPError as error:
            raise UserError(_refused(plan.url, error.code)) from error
        except (urllib.error.URLError, TimeoutError, ConnectionError, IncompleteRead) as error:
            if attempt == TRIES - 1:
                raise UserError(_interrupted(plan, error)) from error
    raise AssertionError("unreachable")


def cached(plan: Plan) -> Path | None:
    """The finished file of an earlier download, if its size is still the recorded one."""
    try:
        record = json.loads(plan.record.read_text(encoding="utf-8"))
        path = plan.folder / record["name"]
        return path if record["done"] and path.stat().st_size == record["size"] else None
    except (OSError, ValueError, KeyError):
        return None


def _direct(url: str) -> str:
    """A hub page's link -> the link of the file itself."""
    return re.sub(r"^(https://(?:huggingface\.co|hf\.co)/[^?#]+?)/blob/", r"\1/resolve/", url)


def _require_https(url: str) -> None:
    pieces = urllib.parse.urlsplit(url)
    if pieces.scheme.lower() != "https" and pieces.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise UserError(Problem("link", say("{link} is not an https link.", link=redacted(url)),
                                "Use the https:// form of the link."))


def _request(plan: Plan, have: int, etag: str) -> urllib.request.Request:
    request = urllib.request.Request(
        plan.url, headers={"User-Agent": "Mozilla/5.0 (model download)", "Accept-Encoding": "identity"}
    )
    if have:
        request.add_header("Range", f"bytes={have}-")
        if etag:
            request.add_header("If-Range", etag)
    key = key_for(plan.url)
    if key:
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    return request


def key_for(url: str) -> str | None:
    """The key for this link's host from the environment; it is sent to that host only, never on to another."""
    variable = _variable(url)
    return os.environ.get(variable) or None if variable else None


def _variable(url: str) -> str | None:
    host = urllib.parse.urlsplit(url).hostname or ""
    mirror = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname
    if mirror and host == mirror:
        return "HF_TOKEN"
    return next((v for known, v in KEYS.items() if host == known or host.endswith("." + known)), None)


def _download(plan: Plan, progress: Progress | None) -> Path:
    have = plan.part.stat().st_size if plan.part.exists() else 0
    record = _record(plan) if have else {}
    with urllib.request.urlopen(_request(plan, have, record.get("etag", "")), timeout=60) as answer:
        resumed = answer.status == 206
        have = have if resumed else 0
        total = have + int(answer.headers.get("Content-Length") or 0)
        _refuse_page(plan, answer)
        name = _name(plan.url, answer)
        _note(plan, {"name": name, "size": total, "etag": _strong(answer), "source": redacted(plan.url), "done": False})
        with plan.part.open("ab" if resumed else "wb") as file:
            while piece := answer.read(CHUNK):
                file.write(piece)
                have += len(piece)
                if progress:
                    progress(have, total)
    if total and have != total:
        raise IncompleteRead(b"", total - have)
    os.replace(plan.part, plan.folder / name)
    _note(plan, {"name": name, "size": have, "source": redacted(plan.url), "done": True})
    return plan.folder / name


def _refuse_page(plan: Plan, answer: HTTPResponse) -> None:
    if "text/html" in (answer.headers.get("Content-Type") or ""):
        variable = _variable(plan.url)
        hint = say(" If it asks for a login, set {variable}.", variable=variable) if variable else ""
        raise UserError(
            Problem(
                "link",
                say("{link} leads to a web page, not to a file.", link=redacted(plan.url)),
                say("Copy the link of the download button itself.{hint}", hint=hint),
            )
        )


def _strong(answer: HTTPResponse) -> str:
    etag = answer.headers.get("ETag") or ""
    return "" if etag.startswith("W/") else etag


def _name(url: str, answer: HTTPResponse) -> str:
    """The file's name as the server gives it, else the link's last part; only its bare name, safe on every system."""
    name = answer.headers.get_filename() or Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name.replace("\\", "/").rsplit("/", 1)[-1]).strip(". ")
    return name or "model.safetensors"


def _record(plan: Plan) -> dict[str, str]:
    try:
        return json.loads(plan.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _note(plan: Plan, record: dict) -> None:
    temporary = plan.record.with_suffix(".tmp")
    temporary.write_text(json.dumps(record), encoding="utf-8")
    os.replace(temporary, plan.record)


def _refused(url: str, status: int) -> Problem:
    variable = _variable(url)
    if status in (401, 403):
        way = say("The server asks for a login: download the file in a browser and give its path.")
        if variable and not os.environ.get(variable):
            way = say("Set the environment variable {variable} to a key of your account.", variable=variable)
        elif variable:
            way = say("The key in {variable} is not accepted: make a new one.", variable=variable)
        return Problem("link", say("{link} is refused ({status}).", link=redacted(url), status=status), way)
    return Problem("link", say("{link} answers {status}.", link=redacted(url), status=status),
                   "Check the link in a browser.")


def _interrupted(plan: Plan, error: Exception) -> Problem:
    have = plan.part.stat().st_size if plan.part.exists() else 0
    return Problem(
        "link",
        say("{link} could not be downloaded ({name}); {have:,} bytes are here.",
            link=redacted(plan.url), name=type(error).__name__, have=have),
        "Check the connection and start again: the download goes on where it stopped.",
    )
