"""SimpleTuner's ``multidatabackend.json`` -> our data set TOML; what that cannot say is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SAME = {"slider_strength": "slider_strength", "probability": "probability", "caption_prefix": "caption_prefix"}
"""Their key -> ours, with the same meaning."""
QUIET = frozenset(SAME) | {
    "id", "type", "dataset_type", "instance_data_dir", "resolution", "resolution_type", "repeats", "disabled", "disable",
    "caption_strategy", "instance_prompt", "is_regularisation_data", "is_regularization_data", "cache_dir_vae", "cache_dir",
    "metadata_backend", "skip_file_discovery", "preserve_data_backend_cache", "write_batch_size", "default",
}
"""Keys that are used, or that concern SimpleTuner's own caches alone."""
EMBEDS = ("text_embeds", "image_embeds")


@dataclass
class Converted:
    """The TOML, and what was left out of it, a sentence each."""

    lines: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def convert(backends: Any) -> Converted:
    """The data sets of a ``multidatabackend.json``, as read. Raises ValueError where it is no list of tables."""
    if not isinstance(backends, list) or not all(isinstance(one, Mapping) for one in backends):
        raise ValueError("it is no list of data sets")
    found = Converted()
    for number, backend in enumerate(backends, 1):
        name = str(backend.get("id", f"data set {number}"))
        kind = backend.get("dataset_type", "image")
        if kind in EMBEDS:
            continue
        if kind != "image" or backend.get("type", "local") != "local":
            found.left_out.append(f"{name}: {backend.get('type', 'local')} data of the kind {kind} is not read here.")
        elif backend.get("disabled") or backend.get("disable"):
            found.left_out.append(f"{name}: it is disabled.")
        elif not backend.get("instance_data_dir"):
            found.left_out.append(f"{name}: it has no instance_data_dir.")
        else:
            _one(name, backend, found)
    return found


def _one(name: str, backend: Mapping[str, Any], found: Converted) -> None:
    unknown = [key for key in backend if key not in QUIET]
    if unknown:
        found.left_out.append(f"{name}: {', '.join(unknown)} {'has' if len(unknown) == 1 else 'have'} no counterpart here.")
    side = _side(backend)
    folder = str(backend["instance_data_dir"]).replace("\\", "/")
    found.lines += ["", "[[datasets]]", f"# {name}", f"resolution = {side}", "enable_bucket = true", "", "[[datasets.subsets]]",
                    f"image_dir = {_quoted(folder)}", f"num_repeats = {int(backend.get('repeats', 0)) + 1}"]
    strategy = backend.get("caption_strategy", "filename")
    if strategy == "instanceprompt":
        found.lines.append(f"class_tokens = {_quoted(str(backend.get('instance_prompt', '')))}")
    else:
        found.lines.append('caption_extension = ".txt"')
    if strategy not in ("textfile", "instanceprompt"):
        found.left_out.append(f"{name}: captions by {strategy} are not read here; write a .txt file beside each picture.")
    if backend.get("is_regularisation_data") or backend.get("is_regularization_data"):
        found.lines.append("is_reg = true")
    found.lines += [f"{ours} = {_value(backend[theirs])}" for theirs, ours in SAME.items() if theirs in backend]


def _side(backend: Mapping[str, Any]) -> int:
    """Side of the square in pixels, a multiple of 64; ``area`` counts in millions of pixels."""
    given = float(backend.get("resolution", 1.0))
    pixels = given if "pixel" in str(backend.get("resolution_type", "area")) else (given * 2**20) ** 0.5
    return max(64, round(pixels / 64) * 64)


def _value(value: Any) -> str:
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
