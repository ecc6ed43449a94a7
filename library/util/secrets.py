"""Masking of what looks like a token, a key or a password, wherever text leaves the program."""

from __future__ import annotations

import re
from collections.abc import Callable

MASK = "***"

# Shapes of tokens of the services that a trainer meets; the kept prefix still tells which one it was.
_SHAPES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    # Words such as hf_transfer are lower case and short; tokens, halves of them too, are mixed or long.
    (re.compile(r"\b(hf_|api_org_)(?:(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{8,}|[A-Za-z0-9]{20,})"), rf"\1{MASK}"),
    (re.compile(r"\b(gh[pousr]_|github_pat_)[A-Za-z0-9_]{16,}"), rf"\1{MASK}"),
    (re.compile(r"\b(sk-|wandb_v1_|r8_|glpat-)[A-Za-z0-9_\-]{16,}"), rf"\1{MASK}"),
    (re.compile(r"\b(xox[abprs]-)[A-Za-z0-9\-]{10,}"), rf"\1{MASK}"),
    (re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{12,}\b"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._\-+/=]{8,}"), rf"\1{MASK}"),
    (re.compile(r"(?i)([?&](?:token|key|api[_-]?key|access_token|auth|signature|sig|password|x-amz-[a-z-]+)=)[^&\s\"'<>]+"),
     rf"\1{MASK}"),
    (re.compile(r"(?i)(://[^/\s:@]+:)[^/\s@]+(@)"), rf"\1{MASK}\2"),
    (re.compile(r"(?i)(https?://)[^/\s:@?#]+(@)"), rf"\1{MASK}\2"),
    (re.compile(r"\b(AIza)[0-9A-Za-z_\-]{30,}"), rf"\1{MASK}"),
    (re.compile(r"\b(eyJ)[\w\-]{10,}\.[\w\-]{10,}\.[\w\-]{10,}"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b([a-z0-9_\-]*(?:api[_\-]?key|token|secret|passwd|password)[\"']?\s*[=:]\s*[\"']?)"
                r"(?=[^\s\"',;]*\d)[A-Za-z0-9._\-+/=]{12,}"), rf"\1{MASK}"),
    # A bare 40-digit hexadecimal word preceded by a word that names the service (old wandb keys look so).
    (re.compile(r"(?i)\b(wandb[^\n]{0,40}?)\b[0-9a-f]{40}\b"), rf"\1{MASK}"),
)


def mask(text: str) -> str:
    """``text`` with everything that is shaped like a secret replaced by ``***``; other text comes back unchanged."""
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text


def has_secret(text: str) -> bool:
    """Whether ``mask`` would change the text."""
    return mask(text) != text


def reason(error: BaseException) -> str:
    """The first line of what an error says, masked; its kind where it says nothing (``AssertionError()``, ``TimeoutError()``)."""
    lines = mask(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
