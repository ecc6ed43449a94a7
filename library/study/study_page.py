"""The page of a study: every run's loss in one picture, its pictures side by side, its file's health, all in one table."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.lorafile import examine, file
from library.report import gallery, html
from library.report.curves import smooth
from library.sample.images import describe
from library.study.grid import Grid
from library.study.runs import Run, Study
from library.util.records import UserError
from library.util.said import say

DONE = say("done")
SORT = """
document.querySelectorAll('table.sorted th').forEach((head, column) => head.addEventListener('click', () => {
  const table = head.closest('table'), body = table.tBodies[0], way = head.dataset.way === 'up' ? -1 : 1;
  head.dataset.way = way === 1 ? 'up' : 'down';
  const value = row => { const text = row.cells[column].textContent; return isNaN(parseFloat(text)) ? text : parseFloat(text); };
  [...body.rows].sort((a, b) => (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0) * way).forEach(row => body.append(row));
}));
"""
STYLE = """
table.sorted td:first-child, .sheet th.row { white-space: nowrap; max-width: none; } table.sorted th { cursor: pointer; }
table.sorted th::after { content: ' \\2195'; opacity: .4; }
"""


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    run: Run
    state: str
    """``done``, ``failed: ...``, ``not run yet``."""
    failed: bool = False
    losses: tuple[float, ...] = ()
    health: str = ""
    norm: float = math.nan
    """Norm of everything the file changes."""
    distance: float | None = None
    """Mean distance of its pictures to the base model's."""

    @property
    def last_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        count = max(1, len(self.losses) // 10)
        return sum(self.losses[-count:]) / count if self.losses else math.nan


@dataclass(frozen=True)
class Outcomes:
    """Everything a study has found."""

    study: Study
    outcomes: tuple[Outcome, ...]
    grid: Grid | None = None
    """Files x prompts."""


def outcome(study: Study, run: Run) -> Outcome:
    """Read what a run left on the disk."""
    files, state = run.files(study.folder, study.base["output_name"] or ""), study.state(run)
    if state is None or state["code"]:
        words = say("not run yet") if state is None else say("failed: {cause}", cause=state["cause"])
        return Outcome(run, words, state is not None, _losses(files.journal))
    try:
        report = examine.examine(file.read(files.lora))
    except UserError as error:
        return Outcome(run, DONE, False, _losses(files.journal), error.problems[0].what)
    counts: dict[str, int] = {}
    for layer in report.faults:
        counts[layer.fault] = counts.get(layer.fault, 0) + 1
    faults = [say("{count} of {layers} layers {fault}", count=count, layers=len(report.layers), fault=fault)
              for fault, count in counts.items()]
    health = say("{faults}", faults=faults) if faults else say("good")
    return Outcome(run, DONE, False, _losses(files.journal), health, math.sqrt(sum(norm ** 2 for norm in report.blocks.values())))


def _losses(journal: Path) -> tuple[float, ...]:
    if not journal.is_file():
        return ()
    return tuple(json.loads(line)["loss"] for line in journal.read_text(encoding="utf-8").splitlines() if line.endswith("}"))


def page(found: Outcomes) -> str:
    """The page as text. Nothing of it depends on when or how often the study was broken off."""
    name = found.study.base["output_name"] or "study"
    parts = [(say("Loss"), _curves(found.outcomes)), (say("All runs"), _table(found.outcomes)),
             (say("Pictures"), _pictures(found)), (say("Settings common to all"), _common(found.study))]
    intro = html.text(say("{count:run|runs}, {done} done; base settings: {file}", count=len(found.outcomes),
                          done=sum(one.state == DONE for one in found.outcomes), file=found.study.config.name))
    body = f"<p>{intro}</p>\n" + html.sections(parts)
    script = (gallery.SCRIPT if found.grid else "") + SORT
    return html.document(say("{name}: study", name=name), body, gallery.STYLE + STYLE, script, wide=True)


def _curves(outcomes: Sequence[Outcome]) -> str:
    from matplotlib import colormaps, rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [one for one in outcomes if one.losses]
    if not drawn:
        return ""
    # A fixed salt: the names that matplotlib gives its clip paths would be others each time.
    with rc_context({"svg.hashsalt": "study"}):
        figure = Figure(figsize=(11, 5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for number, one in enumerate(drawn):
            colour = colormaps["turbo"]((number + 0.5) / len(drawn))
            axes.plot(range(1, len(one.losses) + 1), smooth(one.losses, 0.1), color=colour, linewidth=1.4, label=one.run.name)
        axes.set_xlabel("step")
        axes.set_ylabel("loss, smoothed")
        axes.grid(alpha=0.25)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()
    return drawing[drawing.index("<svg"):]


def _table(outcomes: Sequence[Outcome]) -> str:
    """One row for each run, the lowest last loss first; a click on a heading sorts by it."""
    flags = [name for name, _ in outcomes[0].run.settings]
    head = (say("run"), *flags, say("loss at the end"), say("steps"), say("norm of the change"), say("pictures from base"),
            say("file"), say("state"))
    ordered = sorted(outcomes, key=lambda one: (math.isnan(one.last_loss), one.last_loss if one.losses else 0, one.run.name))
    rows = [(html.text(one.run.name), *(html.text(value) for _, value in one.run.settings), _number(one.last_loss, 5),
             str(len(one.losses)), _number(one.norm, 4), _number(math.nan if one.distance is None else one.distance, 3),
             html.text(one.health), html.text(one.state)) for one in ordered]
    return html.table(head, rows, tuple(range(1, len(flags) + 5)), "sorted")


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _pictures(found: Outcomes) -> str:
    if found.grid is None:
        return ""
    grid = found.grid
    rows = [point.label for point in grid.plan.y.points]
    columns = [point.label for point in grid.plan.x.points]
    spots = [[gallery.Spot([gallery.Photo(picture, f"{rows[y]} · {describe(line)}".replace("\n", " · "))
                            for picture, line in zip(cell.pictures, cell.lines, strict=True)])
              for x in range(len(columns)) for cell in [grid.cells[0, y, x]]] for y in range(len(rows))]
    return gallery.tables_part([gallery.Table("", columns, rows, spots)])


def _common(study: Study) -> str:
    varied = {name for run in study.runs for name, _ in run.settings}
    lines: list[tuple[str, Any]] = [(name, value) for name, value in study.base.changed().items()
                                    if name not in varied and name not in ("output_dir", "output_name", "config_file")]
    table = html.table((say("setting"), say("value")), ((f"<code>{name}</code>", f"<code>{html.text(str(value))}</code>")
                                              for name, value in lines))
    words = html.text(say("and for every run:"))
    further = f"<p>{words} <code>{html.text(' '.join(study.further))}</code></p>" if study.further else ""
    return f"<details><summary>{html.text(say('{count:setting|settings}', count=len(lines)))}</summary>{table}{further}</details>"
