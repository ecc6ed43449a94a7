"""The hashes that metadata carries: of the LoRA file itself, and of the model and VAE it was trained on."""

from __future__ import annotations

from pathlib import Path

from library.util.hashing import file_sha256, legacy_of, safetensors_hashes
from library.util.records import Problem, UserError

FOLDER = "IsADirectory"
"""What kohya writes for a model in a folder, which has no hash."""

__all__ = ["FOLDER", "model_hash", "model_hash_short", "source_name", "sshs_hashes"]


def sshs_hashes(file_bytes: bytes) -> tuple[str, str]:
    """(``sshs_model_hash``, ``sshs_legacy_hash``) of a .safetensors that holds its ``ss_`` metadata only."""
    return safetensors_hashes(file_bytes)


def model_hash(path: Path | str) -> str:
    """``new_sd_model_hash``: sha256 of a model file, ``IsADirectory`` for a folder.

    Raises UserError where nothing is there.
    """
    path = _existing(path)
    return FOLDER if path.is_dir() else file_sha256(path)


def model_hash_short(path: Path | str) -> str:
    """``sd_model_hash``: 8 hex digits of the sha256 of 64 KiB at 1 MiB of a file, ``IsADirectory`` for a folder."""
    path = _existing(path)
    if path.is_dir():
        return FOLDER
    with path.open("rb") as file:
        return legacy_of(file)


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.exists():
        raise UserError(Problem(str(path), "There is no such file or folder.", "Check the path."))
    return path


def source_name(source: str) -> str:
    """``sd_model_name``: the last part of a path; a hub id stays whole."""
    path = Path(source)
    return path.name if path.exists() else source
