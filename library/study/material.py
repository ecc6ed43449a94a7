"""Pictures of a training folder, as tries of a finished file need them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from library.data.files import numbered_folders, pictures
from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    from PIL import Image


def paths_of(folder: Path, most: int) -> list[Path]:
    """Pictures of a training folder (``N_name`` folders, or the pictures themselves), at most ``most``, evenly taken."""
    if not folder.is_dir():
        raise UserError(Problem("--train_data_dir", say("There is no folder {folder}.", folder=folder), "Check the path."))
    numbered, _ = numbered_folders(folder)
    paths = [path for one in numbered for path in pictures(one.path)] or pictures(folder)
    if not paths:
        raise UserError(
            Problem(
                "--train_data_dir", say("{folder} holds no pictures.", folder=folder), "Give the folder of the training pictures."
            )
        )
    return paths[::max(1, len(paths) // most)][:most]


def opened(paths: Sequence[Path], size: tuple[int, int] | None = None) -> list[Image.Image]:
    """The pictures in RGB, brought to ``size`` (width, height) where one is given."""
    from PIL import Image, ImageOps

    found = []
    for path in paths:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
            found.append(upright if size is None else ImageOps.fit(upright, size))
    return found
