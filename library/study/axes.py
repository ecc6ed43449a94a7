"""The axes of a grid of pictures: what a user writes behind ``--x``, ``--y``, ``--z``, as changes of a picture's settings."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from library.sample import samplers
from library.sample.prompts import PromptLine
from library.save import series
from library.util.near import near
from library.util.records import Problem, UserError
from library.util.said import say


@dataclass(frozen=True)
class Cell:
    """One picture to draw: its prompt line and the LoRAs in it."""

    line: PromptLine
    main: Path | None = None
    """The file that the axes ``file``, ``epoch``, ``step`` choose; None = the base model alone."""
    strength: float = 1.0
    mixture: tuple[tuple[Path, float], ...] = ()
    """Further files, each at its strength."""

    @property
    def loras(self) -> tuple[tuple[Path, float], ...]:
        """Every file that acts on the picture; at strength 0 none does."""
        own = ((self.main, self.strength),) if self.main is not None else ()
        return tuple((path, strength) for path, strength in (*own, *self.mixture) if strength)


Change = Callable[[Cell], Cell]


@dataclass(frozen=True)
class Point:
    """One place on an axis."""

    label: str
    change: Change


@dataclass(frozen=True)
class Axis:
    """What changes from one row, column or sheet to the next."""

    name: str
    points: tuple[Point, ...]
    order: int = 0
    """Axes of a lower order act first: a prompt is chosen before a word in it is replaced."""


NOTHING = Axis("", (Point("", lambda cell: cell),))


@dataclass(frozen=True)
class Given:
    """What axes may refer to."""

    cell: Cell
    """The picture that the axes change."""
    prompts: tuple[PromptLine, ...] = ()
    """The lines of the prompt file."""
    folder: Path = Path()
    """Where LoRAs that are named without a path lie."""


# ------------------------------------------------------------------------------------------------------ reading lists

_RANGE = re.compile(r"(-?[\d.]+)\s*-\s*(-?[\d.]+)\s*(?:\(\s*([+-]?[\d.]+)\s*\)|\[\s*(\d+)\s*\])?")


def words(text: str) -> list[str]:
    """Values between commas; one that holds a comma itself stands in double quotes."""
    found = [word.strip() for word in next(csv.reader([text], skipinitialspace=True), [])]
    return [word for word in found if word]


def numbers(text: str, whole: bool = False) -> list[float]:
    """Numbers and ranges as image programs write them: ``1, 2``, ``1-5``, ``1-10 (+2)``, ``0.5-1 [6]``.

    Raises ValueError for what is neither.
    """
    found: list[float] = []
    for word in words(text):
        span = _RANGE.fullmatch(word)
        found += [_number(word)] if span is None else _span(span, whole)
    return [round(value) if whole else round(value, 6) for value in found]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(say('"{word}" is no number.', word=word)) from None


def _span(span: re.Match[str], whole: bool) -> list[float]:
    first, last, step, count = float(span[1]), float(span[2]), span[3], span[4]
    if count:
        most = max(1, int(count) - 1)
        return [first + (last - first) * number / most for number in range(int(count))]
    if not step and not whole:
        raise ValueError(say("{span} says no step; write {first}-{last} (+0.1) or {first}-{last} [6].", span=span[0], first=span[1],
                             last=span[2]))
    width = abs(float(step or 1)) or 1.0
    places = int(abs(last - first) / width + 1e-6) + 1
    return [first + (width if last >= first else -width) * number for number in range(places)]


# ------------------------------------------------------------------------------------------------------ kinds of axes


def _files(text: str, given: Given) -> list[Point]:
    points = []
    for word in words(text):
        if word == "none":
            points.append(file_point(None, "without"))
            continue
        path = Path(word)
        named = sorted(path.parent.glob(path.name)) if any(mark in path.name for mark in "*?") else [find(word, given)]
        if not named:
            raise UserError(
                Problem("file=", say("No file matches {word}.", word=word), "Check the path; * stands for any letters.")
            )
        points += [file_point(one, one.stem) for one in named]
    return points


def file_point(path: Path | None, label: str) -> Point:
    """A point that chooses the main file; None = the base model alone."""
    return Point(label, lambda cell: replace(cell, main=path))


def _series(counted: str) -> Callable[[str, Given], list[Point]]:
    def points(text: str, given: Given) -> list[Point]:
        if given.cell.main is None:
            raise UserError(Problem(f"{counted}=", "No file is given whose series could be taken.",
                                    "Add --lora FILE, any file of the run."))
        members = [m for m in series.of_run(given.cell.main) if m.counted in (counted, "last")]
        others = {m.counted for m in series.of_run(given.cell.main)} - {counted, "last"}
        if others and all(m.counted == "last" for m in members):
            other = others.pop()
            raise UserError(Problem(f"{counted}={text}", say("The run's files are numbered by {other}, not by {counted}.",
                                                             other=other, counted=counted),
                                    say("Write for example {example}.", example=KINDS[other].example)))
        return [file_point(None if m is None else m.path, "without" if m is None else _label(m, counted))
                for word in words(text) for m in _chosen(word, counted, members)]

    return points


def _label(member: series.Member, counted: str) -> str:
    return f"last ({member.number})" if counted == "epoch" and member.counted == "last" and member.number else member.label


def _chosen(word: str, counted: str, members: Sequence[series.Member]) -> list[series.Member | None]:
    """Members that one word of the list means: ``all``, ``every 2``, ``last``, ``none``, a number or a range."""
    every = re.fullmatch(r"every\s+(\d+)", word)
    if word == "all" or every:
        return list(series.every(members, int(every[1]) if every else 1))
    if word == "none":
        return [None]
    if word == "last":
        return [m for m in members if m.counted == "last"]
    wanted = [int(number) for number in numbers(word, whole=True)]
    by_number = {m.number: m for m in reversed(members)}
    missing = [number for number in wanted if number not in by_number]
    if missing:
        there = ", ".join(str(m.number) if m.counted == counted else "last" for m in members)
        raise UserError(
            Problem(
                f"{counted}={word}",
                say("There is no file of {counted} {missing}.", counted=counted, missing=missing[0]),
                say("There are: {there}.", there=there),
            )
        )
    return [by_number[number] for number in wanted]


def _strengths(text: str, given: Given) -> list[Point]:
    return [Point(f"{value:g}", lambda cell, value=value: replace(cell, strength=value)) for value in numbers(text)]


def _prompts(text: str, given: Given) -> list[Point]:
    """Lines of the prompt file by number (``all``, ``1-3``), else texts between bars."""
    if text.strip() == "all" or re.fullmatch(r"[\d\s,\-()+]+", text):
        lines = list(given.prompts)
        wanted = range(1, len(lines) + 1) if text.strip() == "all" else [int(n) for n in numbers(text, whole=True)]
        if not lines or any(not 1 <= n <= len(lines) for n in wanted):
            raise UserError(
                Problem(
                    f"prompt={text}",
                    say("The prompt file has {lines} lines.", lines=len(lines)),
                    "Count from 1; give --sample_prompts FILE, or write the prompts themselves between bars: prompt=a cat|a dog.",
                )
            )
        return [_line_point(lines[n - 1]) for n in wanted]
    return [Point(one.strip(), lambda cell, one=one: replace(cell, line=replace(cell.line, prompt=one.strip())))
            for one in text.split("|")]


def _line_point(line: PromptLine) -> Point:
    """A line of a prompt file: what it says holds, what it leaves open stays."""
    said = {name: value for name, value in vars(line).items() if value not in (None, "", 0) or name == "prompt"}
    return Point(line.prompt, lambda cell: replace(cell, line=replace(cell.line, **said)))


def _replacements(text: str, given: Given) -> list[Point]:
    """Search and replace: the first word is searched for in the prompts, each word in turn stands in its place."""
    found = words(text)
    first = found[0] if found else ""
    prompts = [given.cell.line.prompt, *(line.prompt for line in given.prompts)]
    if not first or not any(first in prompt for prompt in prompts):
        raise UserError(Problem(f"replace={text}", say('"{first}" does not stand in the prompt.', first=first),
                                "The first word of the list is searched for; each word then stands in its place."))

    def change(word: str) -> Change:
        def replaced(cell: Cell) -> Cell:
            line = cell.line
            negative = None if line.negative_prompt is None else line.negative_prompt.replace(first, word)
            return replace(cell, line=replace(line, prompt=line.prompt.replace(first, word), negative_prompt=negative))
        return replaced

    return [Point(word, change(word)) for word in found]


def _field(name: str, read: Callable[[str], Sequence[float | str]]) -> Callable[[str, Given], list[Point]]:
    def points(text: str, given: Given) -> list[Point]:
        return [Point(value if isinstance(value, str) else f"{value:g}",
                      lambda cell, value=value: replace(cell, line=replace(cell.line, **{name: value})))
                for value in read(text)]

    return points


def _mixtures(text: str, given: Given) -> list[Point]:
    """``a:0.7+b:0.3|a:1``: mixtures between bars, files of one mixture joined by plus, strength behind the last colon."""
    points = []
    for mixture in text.split("|"):
        loras = tuple(_lora(one.strip(), given) for one in mixture.split("+") if one.strip() not in ("", "none"))
        label = " + ".join(f"{path.stem} {strength:g}" for path, strength in loras) or "without"
        points.append(Point(label, lambda cell, loras=loras: replace(cell, main=None, mixture=loras)))
    return points


def _lora(text: str, given: Given) -> tuple[Path, float]:
    name, _, strength = text.rpartition(":")
    try:
        return (find(name, given), float(strength)) if name else (find(text, given), 1.0)
    except ValueError:
        return find(text, given), 1.0  # the colon belongs to a drive: C:\lora\a.safetensors


def find(name: str, given: Given) -> Path:
    """A LoRA by path or by name: in the folder, with or without ending, its number in any width (``name-01``)."""
    for path in (Path(name), given.folder / name):
        for tried in (path, path.with_name(path.name + series.ENDINGS[0])):
            if tried.is_file():
                return tried
    present = sorted(p for p in given.folder.glob("*") if p.suffix.lower() in series.ENDINGS)
    stem, wanted = series.parse(Path(Path(name).name + series.ENDINGS[0]))
    for path in present:
        other, member = series.parse(path)
        if other == stem and wanted.counted != "last" and (member.counted, member.number) == (wanted.counted, wanted.number):
            return path
    raise UserError(Problem(name, say("There is no such LoRA file, here or in {folder}.", folder=given.folder),
                            near(Path(name).name, [p.stem for p in present]) if present else "Check the path."))


@dataclass(frozen=True)
class Kind:
    """One kind of axis."""

    title: str
    make: Callable[[str, Given], list[Point]]
    example: str
    order: int = 5


def _whole(least: int) -> Callable[[str], list[float]]:
    """Reads whole numbers from ``least`` on."""
    def read(text: str) -> list[float]:
        found = numbers(text, whole=True)
        if any(number < least for number in found):
            raise ValueError(say("{number:g} is below {least}.", number=min(found), least=least))
        return found
    return read


def _samplers(text: str) -> list[str]:
    for name in words(text):
        try:
            samplers.find(name)
        except UserError as error:
            raise UserError(*(replace(one, where=f"sampler={text}") for one in error.problems)) from None
    return words(text)


KINDS: dict[str, Kind] = {
    "file": Kind("file", _files, "file=out/a.safetensors,out/b*.safetensors,none", 1),
    "epoch": Kind("epoch", _series("epoch"), "epoch=all, epoch=2-10 (+2), epoch=every 2, epoch=none,5,last", 1),
    "step": Kind("step", _series("step"), "step=all, step=100-500 (+100)", 1),
    "mixture": Kind("LoRAs", _mixtures, "mixture=a:0.7+b:0.3|a:1", 1),
    "strength": Kind("strength", _strengths, "strength=0.5-1 (+0.1), strength=0,0.5,1"),
    "prompt": Kind("prompt", _prompts, "prompt=all (of --sample_prompts), prompt=a cat|a dog", 2),
    "replace": Kind("prompt S/R", _replacements, 'replace=red,blue,"dark green"', 3),
    "negative": Kind("negative prompt", lambda text, given: _field("negative_prompt", lambda t: t.split("|"))(text, given),
                     "negative=|blurry", 2),
    "seed": Kind("seed", _field("seed", _whole(0)), "seed=1-4, seed=42,43"),
    "sampler": Kind("sampler", _field("sampler", _samplers), "sampler=ddim,euler_a"),
    "steps": Kind("steps", _field("steps", _whole(1)), "steps=10,20,30"),
    "scale": Kind("guidance", _field("scale", numbers), "scale=3,5,7.5"),
    "guidance": Kind("distilled guidance", _field("guidance_scale", numbers), "guidance=2.5,3.5"),
    "size": Kind("size", lambda text, given: [_size(word) for word in words(text)], "size=512x512,512x768"),
}
"""Word in front of the equals sign -> kind."""
SAME = {"lora": "file", "epochs": "epoch", "cfg": "scale", "cfg scale": "scale", "prompt s/r": "replace", "seeds": "seed",
        "multiplier": "strength", "weight": "strength"}
"""Other words for the same."""


def _size(word: str) -> Point:
    width, _, height = word.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError(say('"{word}" is no size.', word=word))
    sides = {"width": int(width), "height": int(height)}
    return Point(word, lambda cell: replace(cell, line=replace(cell.line, **sides)))


def axis(text: str, given: Given) -> Axis:
    """Read an axis as typed, ``strength=0.5,0.7,1``; UserError with an example where it cannot be read."""
    name, sign, values = text.partition("=")
    word = SAME.get(name.strip().lower(), name.strip().lower())
    if not sign or word not in KINDS:
        raise UserError(
            Problem(
                text,
                say('There is no axis "{value}".', value=name.strip()),
                say("{word} For example: {example}", word=near(word, KINDS), example=KINDS.get(word, KINDS["strength"]).example),
            )
        )
    kind = KINDS[word]
    try:
        points = kind.make(values, given)
    except ValueError as error:
        raise UserError(
            Problem(text, say("It cannot be read: {error}", error=error.args[0]),
                    say("Write for example {example}.", example=kind.example))
        ) from error
    if not points:
        raise UserError(Problem(text, "It names no value.", say("Write for example {example}.", example=kind.example)))
    return Axis(kind.title, tuple(points), kind.order)


def cells(base: Cell, axes: Sequence[Axis]) -> dict[tuple[int, ...], Cell]:
    """Place on the axes -> the picture there, the last axis running fastest."""
    found = {}
    for place in product(*(range(len(one.points)) for one in axes)):
        cell = base
        for one, number in sorted(zip(axes, place, strict=True), key=lambda pair: pair[0].order):
            cell = one.points[number].change(cell)
        found[place] = cell
    return found


# ------------------------------------------------------------------------------------------- LoRAs named in the prompt

_TAG = re.compile(r"\s*,?\s*<lora:([^:>]+)(?::([^>]*))?>")


def with_tags(cell: Cell, given: Given) -> Cell:
    """``<lora:name:0.7>`` in a prompt, as image programs write it, becomes a LoRA of the picture."""
    tags = _TAG.findall(cell.line.prompt)
    if not tags:
        return cell
    loras = tuple((find(name.strip(), given), _tag_strength(name, text)) for name, text in tags)
    return replace(cell, line=replace(cell.line, prompt=_TAG.sub("", cell.line.prompt).strip(" ,")),
                   mixture=(*cell.mixture, *loras))


def _tag_strength(name: str, text: str) -> float:
    try:
        return float(text or 1)
    except ValueError:
        raise UserError(Problem(f"<lora:{name}:{text}>", say('The strength cannot be "{text}".', text=text),
                                say("Write for example <lora:{name}:0.7>.", name=name))) from None
