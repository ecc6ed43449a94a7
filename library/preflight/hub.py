"""Checks of tokens, and of whatever has to come from or go to the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from library.preflight import hub_client, tokens
from library.preflight.files import beside_config, nearest
from library.preflight.hub_client import Answer
from library.preflight.model_files import FLAG, found, local_path, missing_parts, not_found, typed_model
from library.preflight.registry import Context, check
from library.util.hub_access import mirror_of
from library.util.records import Problem


def repo_wanted(context: Context) -> str:
    """The hub repository of the base model, "" where the model is local or a link."""
    from library.util.fetch import is_link

    typed = typed_model(context)
    if not typed or is_link(typed) or local_path(context, typed) is not None:
        return ""
    return mirror_of(typed) or typed


def uses_hub(context: Context) -> bool:
    """Tell whether the run reads from or writes to the hub at all."""
    return bool(repo_wanted(context) or context.flag("huggingface_repo_id") or context.flag("resume_from_huggingface"))


def all_tokens(context: Context) -> list[tokens.Token]:
    """Tokens that are set, the winning one first."""
    return context.remember("tokens", lambda: tokens.find_tokens(context.machine, context.flags))


@check("token_shape", level="words", row="F72")
def check_token_shape(context: Context) -> Iterator[Problem]:
    """A token that was pasted half, with quotes, or as the example of a guide."""
    if not uses_hub(context):
        return
    for token in all_tokens(context):
        if token.fault:
            yield context.warn(f"token_shape.{token.fault}", token.source, source=token.source, length=len(token.value))


@check("token_sources", level="words", row="F72")
def check_token_sources(context: Context) -> Iterator[Problem]:
    """Two different tokens are set; one of them wins, and it may be the older one."""
    found = all_tokens(context)
    if uses_hub(context) and len({t.value for t in found}) > 1:
        yield context.note(
            "token_sources",
            found[0].source,
            wins=found[0].source,
            others=", ".join(t.source for t in found[1:] if t.value != found[0].value),
        )


@check("model_moved", level="words", row="F54")
def check_moved(context: Context) -> Iterator[Problem]:
    """Repositories that were removed: the mirror is taken, and said so."""
    typed = typed_model(context)
    mirror = mirror_of(typed)
    if mirror and local_path(context, typed) is None:
        yield context.note("model_moved", FLAG, repo=typed, mirror=mirror)


@check("hub_shadowed", level="files", row="F22")
def check_shadow(context: Context) -> Iterator[Problem]:
    """A folder of the hub id's name in the working folder hides the download."""
    typed = typed_model(context)
    folder = context.cwd / typed
    if re.fullmatch(r"[\w.-]+/[\w.-]+", typed) and folder.is_dir() and not (folder / "model_index.json").is_file():
        yield context.warn("hub_shadowed", FLAG, repo=typed, folder=folder)


def answer(context: Context) -> Answer | None:
    """The hub's answer about the base model, asked once; None where no hub is needed."""
    repo = repo_wanted(context)
    if not repo:
        return None
    token = next(iter(all_tokens(context)), None)
    return context.remember("hub_answer", lambda: hub_client.ask(context.machine, repo, token))


@check("tokenizer_missing", level="files")
def check_tokenizers(context: Context) -> Iterator[Problem]:
    """A model in single files whose text encoder's tokenizer does not ship with this program and is not here either."""
    from library.families import registry
    from library.families.language import TOKENIZER_FILES

    model = found(context)
    if model is None or model.family is None or model.path is None or model.path.is_dir():
        return
    spec = registry.get(model.family).SPEC
    for slot in spec.text_slots:
        if slot.tokenizer_of is None:
            continue
        owner, name, *inner = slot.tokenizer_of.split("/")
        own = context.flag(slot.option)
        folders = [Path(own) if Path(own).is_dir() else Path(own).parent] if own else []
        folders += [p.joinpath(*inner) for p in (cache_folder(context) / f"models--{owner}--{name}" / "snapshots").glob("*")]
        if any((folder / file).is_file() for folder in folders for file in TOKENIZER_FILES):
            continue
        values = {"title": spec.title, "repo": f"{owner}/{name}", "file": "/".join([*inner, "tokenizer.json"]),
                  "flag": f"--{slot.option}"}  # fmt: skip
        if hub_client.is_offline(context.machine):
            yield context.stop("tokenizer_missing.offline", f"--{slot.option}", **values)
        else:
            yield context.note("tokenizer_missing", f"--{slot.option}", **values)


@check("hub_token_refused", level="network", row="F72")
def check_token(context: Context) -> Iterator[Problem]:
    """The hub refuses the token; where the repository is public, it is not needed at all."""
    said = answer(context)
    if said is None or said.kind != "refused":
        return
    token = next(iter(all_tokens(context)), None)
    source = token.source if token else "-"
    reason = "expired" if said.reason == "expired" else "refused"
    if said.public:
        yield context.warn(f"hub_token_refused.public_{reason}", source, repo=repo_wanted(context), source=source)
    elif token is None:
        yield context.stop("hub_token_refused.none", FLAG, repo=repo_wanted(context))
    else:
        yield context.stop(f"hub_token_refused.{reason}", FLAG, repo=repo_wanted(context), source=source)


@check("hub_gated", level="network", row="F38")
def check_gated(context: Context) -> Iterator[Problem]:
    """Gated repositories: log in, accept the terms, or give a fine-grained token its permission."""
    said = answer(context)
    if said is None or said.kind != "gated":
        return
    repo, token = repo_wanted(context), next(iter(all_tokens(context)), None)
    page = f"{hub_client.endpoint(context.machine)}/{repo}"
    if token is None:
        yield context.stop("hub_gated.login", FLAG, repo=repo, page=page)
        return
    user = hub_client.who(context.machine, token)
    if user is None:
        yield context.stop("hub_token_refused.refused", FLAG, repo=repo, source=token.source)
    elif user.role == "fineGrained" and not user.gated:
        yield context.stop("hub_gated.permission", FLAG, repo=repo, user=user.name, page=page)
    else:
        yield context.stop("hub_gated.terms", FLAG, repo=repo, user=user.name, page=page)


@check("hub_not_found", level="network", row="F54")
def check_repo_exists(context: Context) -> Iterator[Problem]:
    """The repository does not exist under this name, or is private."""
    said = answer(context)
    if said is None or said.kind != "not_found":
        return
    typed = typed_model(context)
    if beside_config(context, typed) is not None:
        yield not_found(context, FLAG, typed)
        return
    parent, near = nearest(context.cwd / typed)
    key = "hub_not_found.local" if near else "hub_not_found"
    yield context.stop(key, FLAG, repo=typed, cwd=context.cwd, parent=parent, near=near)


@check("hub_unreachable", level="network", row="F32")
def check_reachable(context: Context) -> Iterator[Problem]:
    """The hub cannot be reached: switched off, no network, proxy, certificates, time-out, or busy."""
    said, repo = answer(context), repo_wanted(context)
    if said is None or said.kind not in ("unreachable", "offline", "busy"):
        return
    address = hub_client.endpoint(context.machine)
    proxy = next(
        (_host(context.machine.env[n]) for n in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY") if context.machine.env.get(n)), "-"
    )
    reason = said.kind if said.kind != "unreachable" else said.reason
    if reason in ("connection", "dns") and proxy != "-":
        reason = "proxy"  # with one, it is the proxy alone that is spoken to
    values = {"repo": repo, "address": address, "status": said.status, "proxy": proxy, "variable": said.reason,
              "cwd": context.cwd}  # fmt: skip
    snapshot = cached_snapshot(context, repo)
    typed = typed_model(context)
    if snapshot is not None and not missing_parts(snapshot):
        yield context.note("hub_unreachable.cached", FLAG, **values)
    elif (context.cwd / typed).parent.is_dir() or beside_config(context, typed) is not None:
        yield not_found(context, FLAG, typed)
    else:
        yield context.stop(f"hub_unreachable.{reason}", FLAG, **values)


def _host(url: str) -> str:
    """A proxy's address without user name and password."""
    return re.sub(r"^.*@", "", re.sub(r"^\w+://", "", url))


def cache_folder(context: Context) -> Path:
    """Where huggingface_hub keeps downloads."""
    env = context.machine.env
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or context.machine.home / ".cache") / "huggingface")
    return Path(env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or home / "hub")


def cached_snapshot(context: Context, repo: str) -> Path | None:
    """The copy of a repository in the cache, None where there is none with a model_index.json."""
    folder = cache_folder(context) / f"models--{repo.replace('/', '--')}" / "snapshots"
    found = [p for p in folder.glob("*") if (p / "model_index.json").is_file()]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


@check("hub_layout", level="network", row="F77")
def check_layout(context: Context) -> Iterator[Problem]:
    """The repository holds a diffusers model, not just a file."""
    said, repo = answer(context), repo_wanted(context)
    if said is None or not said.files or said.kind not in ("ok", "refused") or "model_index.json" in said.files:
        return
    files = [f for f in said.files if f.endswith((".safetensors", ".ckpt")) and "lora" not in f.lower()]
    address = hub_client.endpoint(context.machine)
    if any("lora" in f.lower() for f in said.files) or said.library in ("peft",):
        yield context.stop("hub_layout.lora", FLAG, repo=repo)
    elif files:
        yield context.stop(
            "hub_layout.file", FLAG, repo=repo, link=f"{address}/{repo}/resolve/main/{files[0]}", count=len(files)
        )
    else:
        yield context.stop("hub_layout", FLAG, repo=repo)


@check("hub_half_download", level="files", row="F79")
def check_half_download(context: Context) -> Iterator[Problem]:
    """An interrupted download in the cache will be taken up again."""
    repo = repo_wanted(context)
    if not repo:
        return
    folder = cache_folder(context) / f"models--{repo.replace('/', '--')}" / "blobs"
    halves = [p for p in folder.glob("*.incomplete") if p.stat().st_size]
    if halves:
        size = sum(p.stat().st_size for p in halves)
        yield context.note(
            "hub_half_download", FLAG, repo=repo, count=len(halves), size=f"{size / 2**20:.0f} MB", folder=folder
        )


@check("upload_token", level="network", row="F72")
def check_upload(context: Context) -> Iterator[Problem]:
    """Uploading needs a token that may write."""
    repo = context.flag("huggingface_repo_id")
    if not repo:
        return
    token: Any = next(iter(all_tokens(context)), None)
    if token is None:
        yield context.stop("upload_token.none", "--huggingface_repo_id", repo=repo)
        return
    if hub_client.is_offline(context.machine):
        return
    user = hub_client.who(context.machine, token)
    if user is None:
        yield context.stop("upload_token.refused", token.source, repo=repo, source=token.source)
    elif user.role == "read" or (user.role == "fineGrained" and user.scopes and "repo.write" not in user.scopes):
        yield context.stop("upload_token.read", token.source, repo=repo, user=user.name)


@check("link_key", level="words", row="F79")
def check_link(context: Context) -> Iterator[Problem]:
    """A model link that needs a key, and one with the key inside."""
    from library.util.fetch import is_link, redacted

    typed = typed_model(context)
    if not is_link(typed):
        return
    if redacted(typed) != typed:
        yield context.warn("link_key.inside", FLAG, link=redacted(typed))
    elif re.match(r"https?://(www\.)?civitai\.", typed) and not context.machine.env.get("CIVITAI_TOKEN"):
        yield context.note("link_key", FLAG)
    if re.match(r"https?://(www\.)?civitai\.\w+/models/", typed):
        yield context.stop("link_key.page", FLAG, link=redacted(typed))
