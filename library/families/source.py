"""From what a user typed (folder, file, hub id, link) to files on this machine."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from library.util.fetch import fetch, is_link
from library.util.hub_access import offline_where_unreachable, patiently, present_place
from library.util.records import Problem, UserError
from library.util.said import say

FILE_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft")
HUB_PAGES = ("models", "datasets", "spaces")
"""First parts of a path that are pages of the hub, so that no user can have that name."""
_REPO = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


def cleaned(text: str) -> str:
    """What was typed without quotes and blanks around it."""
    return text.strip().strip("\"'").strip()


def looks_like_path(text: str) -> bool:
    """Tell a path that does not exist from a hub id: by endings, drives, backslashes, leading dots, no slash or several."""
    return (
        text.lower().endswith(FILE_ENDINGS)
        or "\\" in text
        or text.count("/") > 1
        or text.startswith((".", "/", "~"))
        or bool(re.match(r"^[A-Za-z]:", text))
        or not _REPO.match(text)
        or text.split("/")[0].lower() in HUB_PAGES
    )


def locate(typed: str, flag: str, parts: tuple[str, ...] = (), dtype: str = "fp32") -> Path:
    """The file or diffusers folder on this machine, after downloading what is not here yet.

    ``parts`` are the sub-folders that a hub repository is wanted for; empty = the whole. Raises UserError naming
    ``flag`` where nothing is found, or the hub refuses.
    """
    text = cleaned(typed)
    if is_link(text):
        return fetch(text)
    path = Path(text).expanduser()
    if path.exists():
        return path
    if looks_like_path(text):
        raise missing(text, flag)
    return hub_folder(present_place(text), flag, parts, dtype)


def missing(text: str, flag: str) -> UserError:
    """The error for a path that leads nowhere, with what stands near it."""
    path = Path(text).expanduser()
    parent = next((p for p in path.parents if p.exists()), Path())
    inside = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, inside, 3, 0.5)
    hint = (
        say("In {parent} there is: {near}.", parent=parent, near=near)
        if near
        else say("The nearest folder that exists is {parent}.", parent=parent)
    )
    return UserError(
        Problem(
            flag,
            say("{text} was not found.", text=text),
            say("Check the name; relative paths start from {cwd}. {hint}", cwd=Path.cwd(), hint=hint),
        )
    )


def endpoint() -> str | None:
    """The hub's address from the environment (``HF_ENDPOINT``), or None for the usual one."""
    return os.environ.get("HF_ENDPOINT") or None


def hub_file(repo: str, name: str) -> Path | None:
    """One small file of a hub repository (cached); None where there is no such file or repository, or no connection.

    Raises UserError where the hub refuses it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    offline_where_unreachable()
    try:
        return Path(patiently(hf_hub_download, repo, name, endpoint=endpoint()))
    except GatedRepoError as error:
        raise UserError(_refused(repo, "--pretrained_model_name_or_path", 403)) from error
    except (LocalEntryNotFoundError, EntryNotFoundError, RepositoryNotFoundError, HFValidationError):
        return None
    except HfHubHTTPError as error:
        raise UserError(_refused(repo, "--pretrained_model_name_or_path", error.response.status_code)) from error


def hub_folder(repo: str, flag: str, parts: tuple[str, ...], dtype: str) -> Path:
    """A snapshot of a hub repository: configurations, tokenizers and one variant of the weights of ``parts``.

    Without a connection what was downloaded before is used. Raises UserError naming ``flag``.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        files = wanted_files(_hub_listing(repo, flag), parts, dtype)
        paths = [(name, Path(patiently(hf_hub_download, repo, name, endpoint=endpoint()))) for name in files]
        if paths:
            name, path = paths[0]
            return path.parents[name.count("/")]
        return Path(snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise UserError(
            Problem(
                flag,
                say("{repo} is not on this machine and the hub cannot be reached.", repo=repo),
                "Check the connection (and HF_ENDPOINT, if you use a mirror), or give a local file or folder.",
            )
        ) from error
    except HfHubHTTPError as error:
        raise UserError(_refused(repo, flag, error.response.status_code)) from error


def _hub_listing(repo: str, flag: str) -> list[str]:
    """Names of a repository's files; [] where the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        return [s.rfilename for s in patiently(HfApi(endpoint=endpoint()).model_info, repo).siblings or []]
    except connection_errors():
        return []
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(_no_repository(repo, flag)) from error


def connection_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where there is no connection; its HTTP library differs from version to version."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    found: list[type[Exception]] = [OfflineModeIsEnabled, ConnectionError, TimeoutError]
    for library, name in (("httpx2", "TransportError"), ("httpx", "TransportError"), ("requests", "ConnectionError")):
        if library in sys.modules:
            found.append(getattr(sys.modules[library], name))
    return tuple(found)


def _no_repository(repo: str, flag: str) -> Problem:
    return Problem(
        flag,
        say("There is neither a file nor a folder {repo!r} here, nor a hub repository of that name that you can see.", repo=repo),
        "Check the spelling. A private or gated repository needs a token: set HF_TOKEN or run `hf auth login`.",
    )


def _refused(repo: str, flag: str, status: int) -> Problem:
    if status in (401, 403):
        return Problem(
            flag,
            say("The hub refuses {repo} ({status}).", repo=repo, status=status),
            "Open the repository's page and accept its terms, then set "
            "HF_TOKEN to a token that may read it. If a token is set, it may be wrong or expired.",
        )
    return Problem(
        flag,
        say("The hub answers {status} for {repo}.", status=status, repo=repo),
        "Try again later, or give a local file or folder.",
    )


def wanted_files(files: list[str], parts: tuple[str, ...], dtype: str) -> list[str]:
    """Of a repository's files those that loading needs: one variant and one format of each part's weights."""
    from library.families.weights import candidates

    keep = [f for f in files if "/" not in f and f.endswith(".json")]
    for part in sorted({f.split("/")[0] for f in files if "/" in f}):
        if parts and part not in parts:
            continue
        inside = [f for f in files if f.startswith(part + "/") and f.count("/") == 1]
        keep += [f for f in inside if f.endswith((".json", ".txt", ".model")) and not WEIGHTS_INDEX.search(f)]
        chosen = next((str(c.as_posix()) for c in candidates(Path(part), dtype) if c.as_posix() in inside), None)
        if chosen is not None:
            keep += [chosen, *shards(chosen, inside)]
    return keep


WEIGHTS_INDEX = re.compile(r"\.index(\.[\w]+)?\.json$")


def shards(chosen: str, inside: list[str]) -> list[str]:
    """The shard files that belong to an index file's name."""
    found = re.match(
        r"^(?P<stem>.*?)(?P<v1>\.[a-z0-9]+)?\.(?P<ending>safetensors|bin)\.index(?P<v2>\.[a-z0-9]+)?\.json$", chosen
    )
    if found is None:
        return []
    variant = found["v1"] or found["v2"] or ""
    shape = re.compile(
        rf"^{re.escape(found['stem'])}({re.escape(variant)})?-\d+-of-\d+({re.escape(variant)})?\.{found['ending']}$"
    )
    return [f for f in inside if shape.match(f) and (variant == "" or variant in f)]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where the file is missing, UserError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(
            Problem(str(path), say("This is not readable JSON ({error}).", error=error), "Copy or download it again.")
        ) from error
    return found if isinstance(found, dict) else {}


def part_configs(folder: Path, model_index: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The config.json (or scheduler_config.json) of every part that model_index.json names and the folder holds."""
    found = {}
    for part in model_index:
        for name in ("config.json", "scheduler_config.json"):
            config = read_json(folder / part / name)
            if config:
                found[part] = config
    return found


def asset(name: str) -> dict[str, Any]:
    """A configuration that ships with this program (``sd1.json``)."""
    return json.loads((Path(__file__).parent / "assets" / name).read_text(encoding="utf-8"))


def complete(folder: Path, flag: str, parts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The configurations of a diffusers folder. Raises UserError where it is none or a part's config.json is missing."""
    index = read_json(folder / "model_index.json")
    if not index:
        what = say("{folder} is not a diffusers model folder: it holds no model_index.json.", folder=folder)
        raise UserError(Problem(flag, what, inside(folder)))
    configs = part_configs(folder, index)
    lacks = [f"{part}/config.json" for part in parts if part not in configs]
    if lacks:
        what = say("{folder} is incomplete: {lacks} missing.", folder=folder, lacks=lacks)
        raise UserError(Problem(flag, what, "Copy or download the model folder again."))
    return configs


def inside(folder: Path) -> str:
    """What to give instead of a folder that is no model."""
    if (folder.parent / "model_index.json").is_file():
        return say("Did you mean the folder above it, {folder}?", folder=folder.parent)
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in FILE_ENDINGS) if folder.is_dir() else []
    if len(files) == 1:
        return say("Did you mean {near}?", near=files[0])
    return say("Give the folder that holds model_index.json, or a single model file.")
