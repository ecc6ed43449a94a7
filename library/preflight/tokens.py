"""Where a Hugging Face token comes from and whether it can be one. No function here shows any part of a token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from library.preflight.machine import Machine

FLAG_SOURCE = "--huggingface_token"
ENVIRONMENT = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
WHOLE = re.compile(r"hf_(oauth_)?[A-Za-z0-9_.\-]{30,}|api_org_[A-Za-z0-9]{30,}")


@dataclass(frozen=True)
class Token:
    """A token and where it was found; its value does not appear in ``repr``."""

    source: str
    value: str = field(repr=False)

    @property
    def fault(self) -> str:
        """Why it cannot be a whole token: cut, quoted, placeholder, spaced, short, shape; "" = it can."""
        return fault_of(self.value)


def fault_of(value: str) -> str:
    """Judge a token by its shape alone."""
    text = value.strip()
    if text[:1] in "\"'“‘" or text[-1:] in "\"'”’":
        return "quoted"
    if re.search(r"[<>]|xxx|\*\*|your|token|ここ", text, re.IGNORECASE):
        return "placeholder"
    if "..." in text or "…" in text:
        return "cut"
    if re.search(r"\s", text):
        return "spaced"
    if WHOLE.fullmatch(text):
        return ""
    return "short" if text.startswith("hf_") else "shape"


def token_file(machine: Machine) -> Path:
    """The file in which ``hf auth login`` leaves the token in use."""
    home = Path(
        machine.env.get("HF_HOME") or Path(machine.env.get("XDG_CACHE_HOME") or machine.home / ".cache") / "huggingface"
    )
    return Path(machine.env.get("HF_TOKEN_PATH") or home / "token")


def find_tokens(machine: Machine, flags: Mapping[str, Any]) -> list[Token]:
    """All tokens that are set, the one that wins first: flag, environment, token file (huggingface_hub's own order).

    Newlines and blanks around a token are dropped as huggingface_hub drops them; an empty value counts as none.
    """
    found = []
    if flags.get("huggingface_token"):
        found.append(Token(FLAG_SOURCE, str(flags["huggingface_token"])))
    for name in ENVIRONMENT:
        if machine.env.get(name, "").strip():
            found.append(Token(name, machine.env[name].strip()))
    path = token_file(machine)
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        text = ""
    if text:
        found.append(Token(str(path), text))
    return found


def stored_names(machine: Machine) -> list[str]:
    """Names (never values) of further logins that ``hf auth login`` has kept."""
    path = token_file(machine).parent / "stored_tokens"
    try:
        return re.findall(r"^\[(.+)\]$", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return []
