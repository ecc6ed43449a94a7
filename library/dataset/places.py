"""What a command works on: the folders of a kohya folder, a single folder of pictures, or a settings file that names them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from library.config.resolve import data_of
from library.config.run_config import DatasetConfig, SubsetConfig
from library.config.toml_file import read_command
from library.config.toml_text import read_settings
from library.data import files
from library.data.folders import expanded
from library.data.found import Found, nearest_existing
from library.data.metadata import INFO_CACHE
from library.flags import Flags
from library.util.near import near
from library.util.records import Problem, UserError
from library.util.said import say

EXTENSIONS = (".txt", ".caption")
RESOLUTION = 512
"""Where nothing says what the pictures are to be trained at."""
LATENTS = re.compile(r"(_\d{4,}x\d{4,}_\w+)?\.npz")
TEXTS = re.compile(r"(_te_outputs|(_\w+)?_te)\.npz")
"""What follows a picture's stem in the names of its cached latents and of its cached text outputs."""


@dataclass(frozen=True)
class Folder:
    """A folder of pictures with what its subset says."""

    subset: SubsetConfig
    part: int

    @property
    def path(self) -> Path:
        assert self.subset.image_dir is not None, "folders without pictures of their own are left out"
        return self.subset.image_dir

    def pictures(self) -> list[Path]:
        return files.pictures(self.path)

    def caption_of(self, picture: Path) -> Path | None:
        return files.caption_file(picture, self.subset.caption_extension)

    def new_caption_of(self, picture: Path) -> Path:
        """Where a caption would be written: its present file, else one of the picture's name."""
        return self.caption_of(picture) or picture.with_name(next(files.caption_names(picture, self.subset.caption_extension)))


@dataclass(frozen=True)
class PictureSet:
    """All folders that a command sees."""

    root: Path
    """What names are told from, and where the undo list stands."""
    flags: Flags
    config: DatasetConfig
    folders: tuple[Folder, ...]
    problems: tuple[Problem, ...] = ()

    def label(self, path: Path) -> str:
        """A file's name as it is shown and written into lists: under the root with ``/``, else whole."""
        try:
            return Path(os.path.relpath(path, self.root)).as_posix() if path.is_relative_to(self.root) else path.as_posix()
        except ValueError:
            return path.as_posix()

    def pictures(self) -> Iterator[tuple[Folder, Path]]:
        for folder in self.folders:
            yield from ((folder, path) for path in folder.pictures())

    def only(self, names: Sequence[str]) -> PictureSet:
        """The set with the named folders alone. Raises UserError for a name that is not there."""
        known = {folder.path.name: folder for folder in self.folders}
        for name in names:
            if name not in known:
                raise UserError(
                    Problem("--folder", say('There is no folder "{name}" in {root}.', name=name, root=self.root), near(name, known))
                )
        return replace(self, folders=tuple(known[name] for name in names)) if names else self


def read_set(where: str, training: Sequence[str] = ()) -> PictureSet:
    """The set that a path names; ``training`` are further training flags (``--resolution=768``, ...).

    A .toml or .json file is a data set's description or a training's settings; a folder holds ``N_name`` folders, or
    pictures. Captions end in what most files beside the pictures end in, where no flag says it. Raises UserError.
    """
    path = Path(where)
    if not path.exists():
        raise UserError(Problem(where, "There is no such folder or file.", nearest_existing(path.absolute())))
    argv = [*_named(path), *training]
    if not any(word.startswith(("--resolution", "--config_file")) for word in argv):
        argv.append(f"--resolution={RESOLUTION}")
    if not any(word.startswith("--caption_extension") for word in argv) and path.is_dir():
        argv.append(f"--caption_extension={_extension(path)}")
    flags = read_command(argv)
    config, reading = data_of(flags)
    if reading.problems:
        raise UserError(*reading.problems)
    config = _with_loose_pictures(config, path)
    found = Found()
    parts = expanded(config, found)
    folders = tuple(Folder(subset, number) for number, part in enumerate(parts) for subset in part.subsets
                    if subset.image_dir is not None and subset.image_dir.is_dir())
    stops = [problem for problem in found.problems if problem.severity == "stop"]
    if not folders:
        raise UserError(*(stops or [Problem(where, "It names no folder of pictures.", "Give image_dir, or a folder.")]))
    root = path if path.is_dir() else path.parent
    return PictureSet(root, flags, config, folders, tuple(found.problems))


def _named(path: Path) -> list[str]:
    """The training flag that leads to the pictures."""
    if path.is_dir():
        return [f"--train_data_dir={path}"]
    if path.suffix.lower() not in (".toml", ".json"):
        raise UserError(Problem(str(path), "This file names no pictures.",
                                "Give a folder, a data set's .toml (--dataset_config), or a training's (--config_file)."))
    return [f"--dataset_config={path}" if "datasets" in read_settings(path).data else f"--config_file={path}"]


def _with_loose_pictures(config: DatasetConfig, path: Path) -> DatasetConfig:
    """A folder that holds pictures itself is one subset; the number in its name counts."""
    if not path.is_dir() or config.template is None or not files.pictures(path):
        return config
    if any(files.pictures(one.path) for one in files.numbered_folders(path)[0]):
        return config
    first, _, rest = path.absolute().name.partition("_")
    repeats, words = (int(first), rest) if first.isdecimal() and int(first) > 0 else (1, None)
    subset = replace(config.template, image_dir=path, num_repeats=repeats, class_tokens=words)
    return replace(config, parts=(replace(config.parts[0], subsets=(subset,)),))


def _extension(path: Path) -> str:
    """The ending that most captions in a folder and its folders have."""
    folders = [path, *(child for child in path.iterdir() if child.is_dir())]
    counts = Counter(name.suffix.lower() for folder in folders for name in folder.iterdir() if name.suffix.lower() in EXTENSIONS)
    return counts.most_common(1)[0][0] if counts else EXTENSIONS[0]


def latent_caches(picture: Path) -> list[Path]:
    """Cached latents of a picture and the notes that a trainer keeps of its folder: stale once the picture changes."""
    return [*_caches(picture, LATENTS), *_notes(picture)]


def text_caches(picture: Path) -> list[Path]:
    """Cached text outputs of a picture and the notes that a trainer keeps of its folder: stale once its caption changes."""
    return [*_caches(picture, TEXTS), *_notes(picture)]


def _caches(picture: Path, ending: re.Pattern[str]) -> list[Path]:
    stem = picture.stem
    return sorted(path for path in picture.parent.glob("*.npz")
                  if path.name.startswith(stem) and ending.fullmatch(path.name[len(stem):]))


def _notes(picture: Path) -> list[Path]:
    notes = picture.with_name(INFO_CACHE)
    return [notes] if notes.is_file() else []


def companions(picture: Path) -> list[Path]:
    """What belongs to a picture and goes where it goes: captions of any ending, and caches."""
    if any(other.stem == picture.stem for other in files.pictures(picture.parent) if other != picture):
        return []
    captions = [picture.with_suffix(ending) for ending in (*EXTENSIONS, ".json") if picture.with_suffix(ending).is_file()]
    return [*captions, *_caches(picture, LATENTS), *text_caches(picture)]
