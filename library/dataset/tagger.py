"""WD14 taggers: one ONNX file and one table of labels. Which tags a picture has, and which of them are written down."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.data import images
from library.data.resize import resize
from library.util.hub_access import offline_where_unreachable, patiently
from library.util.packages import installed
from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    import numpy as np

MODEL, LABELS = "model.onnx", "selected_tags.csv"
KINDS = {"9": "rating", "0": "general", "4": "character", "3": "copyright", "1": "artist", "5": "meta"}
"""Category in the table of labels -> kind of tag."""
PROVIDERS = ("CUDAExecutionProvider", "ROCMExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider")
KEPT_UNDERSCORES = 3
"""Tags up to this length are faces such as ``^_^``."""


@dataclass(frozen=True)
class Choice:
    """Which tags are written, and how."""

    thresholds: dict[str, float]
    """Kind of tag -> least probability; a kind that is not named is left out."""
    undesired: frozenset[str] = frozenset()
    remove_underscore: bool = False
    character_tags_first: bool = False
    character_tag_expand: bool = False
    rating: str = ""
    """``first``, ``last``, or "" for no rating."""
    always_first: tuple[str, ...] = ()
    replacement: dict[str, str] = field(default_factory=dict)
    separator: str = ", "


class Tagger:
    """A loaded tagger."""

    def __init__(self, folder: Path):
        import onnxruntime

        self.labels = read_labels(folder / LABELS)
        available = onnxruntime.get_available_providers()
        try:
            self.session = onnxruntime.InferenceSession(str(folder / MODEL), providers=[p for p in PROVIDERS if p in available])
        except RuntimeError as error:
            raise UserError(Problem(str(folder / MODEL), say("This file is no ONNX model that can be read ({error}).", error=error),
                                    "Load it again with --force_download.")) from error
        self.input = self.session.get_inputs()[0]
        shape = self.input.shape
        if len(shape) != 4 or shape[3] != 3 or not isinstance(shape[1], int):
            raise UserError(
                Problem(
                    str(folder / MODEL),
                    say("It takes pictures of shape {shape}, which no WD14 tagger does.", shape=shape),
                    "Give a tagger of SmilingWolf's (v1.4 or v3), as a hub id or a folder.",
                )
            )
        self.side: int = shape[1]
        self.fixed_batch: int | None = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None

    def probabilities(self, pictures_NHWC: np.ndarray) -> np.ndarray:
        """float32 N,side,side,3 (BGR, 0 to 255) -> probability of every label, N,L."""
        import numpy as np

        count, size = len(pictures_NHWC), self.fixed_batch or len(pictures_NHWC)
        found = []
        for start in range(0, count, size):
            part = pictures_NHWC[start:start + size]
            spare = np.zeros((size - len(part), *part.shape[1:]), np.float32)
            found.append(self.session.run(None, {self.input.name: np.concatenate([part, spare])})[0][:len(part)])
        if found[0].shape[1] != len(self.labels.names):
            raise UserError(
                Problem(
                    LABELS,
                    say(
                        "It names {names} labels, and the model answers for {shape}: they are not of one tagger.",
                        names=len(self.labels.names),
                        shape=found[0].shape[1],
                    ),
                    say("Load {model} and {labels} of one repository.", model=MODEL, labels=LABELS),
                )
            )
        return np.concatenate(found)

    def tag(self, paths: Sequence[Path], choice: Choice, batch: int = 1,
            threads: int = 2) -> Iterator[tuple[Path, list[str] | UserError]]:
        """Pictures with their tags; a picture that cannot be read comes with what is wrong."""
        import numpy as np

        for kind in choice.thresholds:
            if kind not in self.labels.kinds:
                raise UserError(Problem(f"--{kind}_threshold", say("This tagger has no {kind} tags.", kind=kind),
                                        say("Leave it out; it has {kinds} tags.", kinds=sorted(set(self.labels.kinds)))))
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for start in range(0, len(paths), batch):
                part = list(paths[start:start + batch])
                read = list(pool.map(lambda path: prepared(path, self.side), part))
                whole = [one for one in read if not isinstance(one, UserError)]
                rows = iter(self.probabilities(np.stack(whole))) if whole else iter(())
                for path, one in zip(part, read, strict=True):
                    yield path, one if isinstance(one, UserError) else chosen(next(rows), self.labels, choice)


@dataclass(frozen=True)
class Labels:
    """The tagger's labels in the order of its output."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]


def read_labels(file: Path) -> Labels:
    """The table of labels. Raises UserError."""
    with file.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    if not rows or not {"name", "category"} <= set(rows[0]):
        raise UserError(Problem(str(file), "This is no table of a tagger's labels.", "It begins with tag_id,name,category,count."))
    return Labels(tuple(row["name"] for row in rows), tuple(KINDS.get(row["category"], "general") for row in rows))


def prepared(path: Path, side: int) -> np.ndarray | UserError:
    """A picture as the taggers were trained on: upright, on white, padded to a square, BGR, float32 0 to 255."""
    import numpy as np

    try:
        pixels = images.read(path, alpha=True)
    except UserError as error:
        return error
    alpha = pixels[..., 3:].astype(np.float32) / 255
    colour = np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    height, width = colour.shape[:2]
    longest = max(height, width)
    square = np.full((longest, longest, 3), 255, np.uint8)
    top, left = (longest - height) // 2, (longest - width) // 2
    square[top:top + height, left:left + width] = colour
    return resize(square, (side, side))[..., ::-1].astype(np.float32)


def chosen(probabilities_L: np.ndarray, labels: Labels, choice: Choice) -> list[str]:
    """The tags of one picture, in the order in which they are written."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS.values()}
    for name, kind, probability in zip(labels.names, labels.kinds, probabilities_L, strict=True):
        if kind in choice.thresholds and probability >= choice.thresholds[kind]:
            found[kind] += [tag for tag in _written(name, kind, choice) if tag not in choice.undesired]
    rest = [tag for kind in ("copyright", "artist", "meta") for tag in found[kind]]
    characters, general = found["character"], found["general"]
    tags = [*characters, *general, *rest] if choice.character_tags_first else [*general, *characters, *rest]
    ratings = [(probability, name) for name, kind, probability in zip(labels.names, labels.kinds, probabilities_L, strict=True)
               if kind == "rating"]
    if choice.rating and ratings:
        best = [tag for tag in _written(max(ratings)[1], "rating", choice) if tag not in choice.undesired]
        tags = [*best, *tags] if choice.rating == "first" else [*tags, *best]
    first = [tag for tag in choice.always_first if tag in tags]
    return [*first, *(tag for tag in tags if tag not in first)]


def _written(name: str, kind: str, choice: Choice) -> list[str]:
    """How a label is written: a character apart from its series, with spaces, replaced."""
    parts = [name]
    if kind == "character" and choice.character_tag_expand and name.endswith(")") and "(" in name:
        who, _, series = name[:-1].rpartition("(")
        parts = [who.rstrip("_"), series]
    if choice.remove_underscore:
        parts = [part.replace("_", " ") if len(part) > KEPT_UNDERSCORES else part for part in parts]
    return [choice.replacement.get(part, part) for part in parts]


def read_replacement(text: str | None) -> dict[str, str]:
    r"""``a,b;c,d`` -> {a: b, c: d}; ``\,`` and ``\;`` stand for the signs themselves. Raises UserError."""
    found = {}
    for rule in (text or "").replace(r"\,", "\0").replace(r"\;", "\1").split(";"):
        parts = [part.replace("\0", ",").replace("\1", ";").strip() for part in rule.split(",")]
        if rule.strip() and len(parts) != 2:
            raise UserError(Problem("--tag_replacement", say('"{text}" cannot be read.', text=text), 'Write "old,new;old2,new2".'))
        if rule.strip():
            found[parts[0]] = parts[1]
    return found


def find_model(repo: str, model_dir: Path, again: bool = False) -> Path:
    """The folder of a tagger: a path, an earlier download (kohya's too), or loaded from the hub. Raises UserError."""
    if not installed("onnxruntime"):
        raise UserError(Problem("onnxruntime", "Taggers are ONNX models, and onnxruntime is not installed.",
                                "Run: python -m pip install onnxruntime (or onnxruntime-gpu, onnxruntime-directml)."))
    if _is_model(Path(repo)):
        return Path(repo)
    folder = model_dir / repo.replace("/", "_")
    if _is_model(folder) and not again:
        return folder
    offline_where_unreachable()
    for name in (MODEL, LABELS):
        load_from_hub(repo, name, folder, again)
    return folder


def load_from_hub(repo: str, name: str, folder: Path, again: bool) -> None:
    """One file of a repository into a folder. Raises UserError that says what can be done without a network."""
    from huggingface_hub import errors, hf_hub_download

    options: dict[str, Any] = {"local_dir": str(folder), "force_download": again, "endpoint": os.environ.get("HF_ENDPOINT")}
    try:
        patiently(hf_hub_download, repo, name, **options)
    except errors.RepositoryNotFoundError as error:
        raise UserError(Problem(f"--repo_id {repo}", "The hub has no such model, or it is not open to you.",
                                "Check the name, such as SmilingWolf/wd-v1-4-convnext-tagger-v2.")) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.EntryNotFoundError, OSError) as error:
        missing = isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError)
        what = say("There is no {name} in it.", name=name) if missing else say("It could not be loaded: the hub is out of reach.")
        raise UserError(
            Problem(
                f"--repo_id {repo}",
                what,
                say("Load {model} and {labels} in a browser and give their folder as --repo_id.", model=MODEL, labels=LABELS),
            )
        ) from error


def _is_model(folder: Path) -> bool:
    return (folder / MODEL).is_file() and (folder / LABELS).is_file()
