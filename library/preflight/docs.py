"""Writes docs/start-up-checks.md from the registry: ``python -m library.preflight.docs``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from library.config.data_reading import SENTENCES
from library.config.rules import RULES
from library.preflight.machine import Machine
from library.preflight.registry import LEVELS, Check, Context, registered
from library.preflight.texts import TEXTS
from library.util import frame
from library.util.records import Problem

ALL_TEXTS = (*TEXTS.items(), *SENTENCES.items(), *((rule.name, (rule.what, rule.remedy)) for rule in RULES))
"""(key, (what is wrong, what to do)) of every check, those that ``library.config`` judges included."""
TITLES = {
    "words": "What was typed, and what is installed",
    "files": "Files and folders",
    "data": "Pictures and captions",
    "machine": "The machine",
    "network": "The Hugging Face hub",
    "probes": "Trying the libraries out", "installation": "The installation (tools/doctor.py)",
}
BESIDE = {
    "rate_high": (),
    "slider_unequal": ("slider_few",),
    "plan_steps": ("reg_doubles",),
    "steps_many": ("steps_few",),
    "scan": ("scan_many",),
    "hub_gated": ("hub_token_refused.refused",),
}
"""Check -> texts of other names that it uses too."""
HEAD = """# Start-up checks

Before anything is trained, these checks look at the command, the files, the pictures, the machine and, only if something has
to come from the hub, at the hub. What they find is shown together in one frame, the worst last; the last line repeats the
real cause. A **stop** ends the run with exit code 1; a **warning** and a **note** do not.

The checks run in levels, the cheap ones first: {levels}.
The first three import no PyTorch and answer within a second or so. A stop ends the checks after its stage, so that a
mistyped path never waits for PyTorch.

    python tools/doctor.py                      examines the installation
    python tools/doctor.py <training command>   runs every check of a command without training; --json for programs

Messages are in English, or in Japanese where the locale is Japanese (`LANG=ja_JP.UTF-8`, or `PREFLIGHT_LANGUAGE=ja`).
A language is one file, `library/util/languages/<language>.toml`. This page is made from the registry of checks by
`python -m library.preflight.docs`.

## Four troubles and their frames
{frames}
## All {count} checks

Values that were seen stand in the place of the names in ‹angle brackets›.
"""
GUARDS = """
## During the run

The same frame is used while a training runs:

"""


SOURCE = "--pretrained_model_name_or_path"
MIRROR = "stable-diffusion-v1-5/stable-diffusion-v1-5"
OLD_TOKENIZER = "AttributeError: 'CLIPTokenizer' object has no attribute 'added_tokens_encoder'"
TROUBLES: tuple[tuple[str, tuple[tuple[str, str, str, dict[str, Any]], ...]], ...] = (
    (
        "A token that was pasted half, or an old one that is still set",
        (
            ("token_shape.cut", "warn", "HF_TOKEN", {"source": "HF_TOKEN", "length": 10}),
            ("hub_token_refused.public_refused", "warn", "HF_TOKEN", {"source": "HF_TOKEN", "repo": MIRROR}),
        ),
    ),
    (
        '"is neither a valid local path nor a valid repo id"',
        (
            (
                "model_not_found.near",
                "stop",
                SOURCE,
                {
                    "path": "models/v1-5-prunde.safetensors",
                    "parent": "models",
                    "missing": "v1-5-prunde.safetensors",
                    "near": "v1-5-pruned.safetensors",
                },
            ),
        ),
    ),
    (
        '"image too large, but cropping and bucketing are disabled"',
        (("image_sizes", "stop", "--enable_bucket", {"count": 61, "images": 64, "names": "001.png, ...", "size": "512x512"}),),
    ),
    (
        '"\'CLIPTokenizer\' object has no attribute \'added_tokens_encoder\'"',
        (
            (
                "versions_disagree",
                "stop",
                "transformers 4.33.0",
                {
                    "name": "transformers",
                    "version": "4.33.0",
                    "other": "tokenizers",
                    "wanted": "!=0.11.3,<0.14,>=0.11.1",
                    "have": "0.23.3",
                    "python": "python",
                },
            ),
            (
                "tokenizer_probe",
                "stop",
                "transformers",
                {"transformers": "4.33.0", "tokenizers": "0.23.3", "python": "python", "got": OLD_TOKENIZER},
            ),
        ),
    ),
)
"""The four troubles of beginners: title and, for each problem shown, its text, severity, place and made-up values."""


def troubles() -> list[tuple[str, list[Problem]]]:
    """The four troubles, each with the problems that are shown."""
    context = Context({}, Machine.fake())
    return [(title, [context.problem(s, key, where, **values) for key, s, where, values in ones]) for title, ones in TROUBLES]


def shown(text: str) -> str:
    """A text with its value names in angle brackets."""
    text = re.sub(r"\{(\w+):[^|}]+\|([^}]+)\}", r"‹\1› \2", text)
    return re.sub(r"\{(\w+)\}", r"‹\1›", text).replace("{{", "{").replace("}}", "}")


def entry(one: Check) -> str:
    """One check: its name, what it looks at, and all it can say."""
    texts = [text for key, text in ALL_TEXTS if key.split(".")[0] == one.name or key in BESIDE.get(one.name, ())]
    lines = [f"### {one.name}", "", one.about, ""]
    lines += [message(*text) for text in texts] or ["Its words come from what it examines.\n"]
    return "\n".join(lines)


def message(what: str, remedy: str) -> str:
    """One message as a list item."""
    return f"- {shown(what)}" + (f"\n  **What to do:** {shown(remedy)}" if remedy else "")


def page() -> str:
    """The whole page."""
    checks = registered()
    frames = "".join(
        f"\n{title}:\n\n```text\n{frame.render(problems, 100)}\n{frame.last_line(problems, launched=False)}\n```\n".replace(
            "\n\n```\n", "\n```\n"
        )
        for title, problems in troubles()
    )
    levels = ", ".join(f"*{level}*" for level in LEVELS)
    parts = [HEAD.format(levels=levels, frames=frames, count=len(checks))]
    for level in LEVELS:
        parts.append(f"\n## {TITLES[level]}\n\n" + "\n\n".join(entry(c).rstrip() for c in checks if c.level == level) + "\n")
    parts.append(GUARDS + "\n".join(message(*text) for key, text in ALL_TEXTS if key.startswith("guard_")) + "\n")
    return "".join(parts)


def main() -> None:
    """Write the page into the repository's docs folder."""
    path = Path(__file__).resolve().parents[2] / "docs" / "start-up-checks.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(page(), encoding="utf-8", newline="\n")
    print(path)


if __name__ == "__main__":
    main()
