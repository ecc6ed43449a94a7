"""A drawn grid as files: a PNG with words and settings, a page that zooms, a JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from library.report import gallery, html, sheet
from library.sample.images import describe, save_png
from library.study.axes import Axis
from library.study.grid import Grid, Score, Shown
from library.util.said import say
from library.util.secrets import mask


@dataclass(frozen=True)
class Written:
    """The files of a grid."""

    png: Path
    page: Path


def write(grid: Grid, path: Path, model: str, title: str = "", scale: int | None = None) -> Written:
    """Write ``path`` (PNG) and the page beside it under the same name, each whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheets = [sheet.Sheet(name, _labels(grid.plan.x), _labels(grid.plan.y), [[one.pictures for one in row] for row in rows],
                          None if grid.suggested is None or grid.suggested[0] != z else grid.suggested[1:])
              for z, (name, rows) in enumerate(_tables(grid))]
    save_png(sheet.draw(sheets, title, scale), path, as_parameters(grid, model))
    return Written(path, html.write(path.with_suffix(".html"), page(grid, model, title or path.stem)))


def _labels(axis: Axis) -> list[str]:
    return [f"{axis.name} {point.label}" if axis.name and _is_bare(point.label) else point.label for point in axis.points]


def _is_bare(label: str) -> bool:
    """Whether a label says nothing without its axis's name: a number."""
    return label.replace(".", "").replace("-", "").isdigit()


def _tables(grid: Grid) -> list[tuple[str, list[list[Shown]]]]:
    """(title, rows of cells) of every sheet."""
    names = _labels(grid.plan.z)
    return [(names[z], [[grid.cells[z, y, x] for x in range(len(grid.plan.x.points))]
                        for y in range(len(grid.plan.y.points))]) for z in range(len(names))]


def as_parameters(grid: Grid, model: str) -> str:
    """The settings of the grid as image programs write them, then the same as JSON in a line of its own."""
    first = next(iter(grid.cells.values())).lines[0]
    axes = [f"{word} Type: {axis.name}, {word} Values: {json.dumps([p.label for p in axis.points], ensure_ascii=False)}"
            for word, axis in zip("XYZ", (grid.plan.x, grid.plan.y, grid.plan.z), strict=True) if axis.name]
    text = f"{describe(first)}, Model: {model}, Script: X/Y/Z plot, {', '.join(axes)}"
    return mask(text + "\ngrid: " + json.dumps(as_json(grid, model), ensure_ascii=False))


def as_json(grid: Grid, model: str) -> dict[str, Any]:
    """Everything about the grid but its pictures."""
    plan = grid.plan
    axes = {word: {"axis": one.name, "values": [p.label for p in one.points]}
            for word, one in zip("xyz", (plan.x, plan.y, plan.z), strict=True) if one.name}
    cells = [{"place": dict(zip("zyx", place, strict=True)), "loras": [[str(path), strength] for path, strength in one.cell.loras],
              "prompt": one.lines[0].prompt, "seeds": [line.seed for line in one.lines], "steps": one.lines[0].steps,
              "sampler": one.lines[0].sampler, "scale": one.lines[0].scale, "size": [one.lines[0].width, one.lines[0].height],
              "score": None if one.score is None else one.score.__dict__} for place, one in grid.cells.items()]
    best = None if grid.suggested is None else dict(zip("zyx", grid.suggested, strict=True))
    return {"model": model, "axes": axes, "cells": cells, "suggested": best, "why": grid.why}


def page(grid: Grid, model: str, title: str) -> str:
    """The page as text."""
    tables = [gallery.Table(name, _labels(grid.plan.x), _labels(grid.plan.y),
                            [[_spot(one, grid.suggested == (z, y, x)) for x, one in enumerate(row)]
                             for y, row in enumerate(rows)]) for z, (name, rows) in enumerate(_tables(grid))]
    first = next(iter(grid.cells.values())).lines[0]
    intro = f'<p class="quiet">{html.text(model)} · {html.text(describe(first)).replace(chr(10), " · ")}</p>\n'
    intro += f"<p>{html.text(suggestion(grid))}</p>\n" if grid.suggested is not None else ""
    settings = escape(mask(json.dumps(as_json(grid, model), ensure_ascii=False, indent=1)))
    folded = f"<details><summary>{html.text(say('All settings'))}</summary><pre>{settings}</pre></details>\n"
    return gallery.page(title, intro, tables, folded)


def suggestion(grid: Grid) -> str:
    """Which cell is framed and why, as a line."""
    assert grid.suggested is not None
    z, y, x = grid.suggested
    labels = [label for axis, number in ((grid.plan.z, z), (grid.plan.y, y), (grid.plan.x, x))
              if (label := _labels(axis)[number])]
    return say("To look at first (framed): {cell}: {why}.", cell=labels, why=grid.why)


def _spot(one: Shown, best: bool) -> gallery.Spot:
    loras = ", ".join(f"{path.stem}:{strength:g}" for path, strength in one.cell.loras) or say("no LoRA")
    photos = [gallery.Photo(picture, f"{loras} · {describe(line)}".replace("\n", " · "))
              for picture, line in zip(one.pictures, one.lines, strict=True)]
    return gallery.Spot(photos, "" if one.score is None else _words(one.score), best)


def _words(score: Score) -> str:
    figures: Sequence[tuple[str, float | None]] = (("from base", score.distance), ("subject", score.subject),
                                                   ("prompt", score.caption))
    return ", ".join(f"{name} {value:.2f}" for name, value in figures if value is not None)
