"""Loss and learning rate over a run, as one picture."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from library.report.record import RunReport


def smooth(values: Sequence[float], span: float = 0.05) -> list[float]:
    """Exponential moving average over about ``span`` of the values, without the bias of its start.

    Values that are no numbers are passed over: the curve goes on from the last good one.
    """
    keep = 1 - 1 / max(5.0, span * len(values))
    total, weight, smoothed = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(total / weight if weight else math.nan)
    return smoothed


def plot(report: RunReport, path: Path) -> Path:
    """Draw the run's loss (single steps faint, smoothed strong, validation as dots) and rates into a PNG."""
    figure = _figure(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".tmp")
    _write(figure, half, format="png", dpi=110)
    os.replace(half, path)
    return path


def svg(report: RunReport) -> str:
    """The same as an SVG element, for pages."""
    import io

    text = io.StringIO()
    _write(_figure(report), text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()
    return drawing[drawing.index("<svg"):]


def response_svg(points: Sequence[tuple[float, float]]) -> str:
    """A slider's response (strength, effect; 1 = what was asked) beside the straight line, as an SVG element."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    strengths = [strength for strength, _ in points]
    axes.plot(strengths, strengths, "--", color="#888888", linewidth=1.0, label="asked")
    axes.plot(strengths, [effect for _, effect in points], "o-", color="#1f4e8c", linewidth=1.6, label="measured")
    axes.set_xlabel("strength")
    axes.set_ylabel("effect")
    axes.legend(loc="upper left", frameon=False)
    axes.grid(alpha=0.25)
    text = io.StringIO()
    _write(figure, text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg"):]


def _write(figure: Any, target: Any, **settings: Any) -> None:
    """Save a figure; a run's Japanese name, which the plot's own font lacks, is no matter for the console."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(target, **settings)


def _figure(report: RunReport) -> Any:
    """A figure of its own canvas: no window system, no global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    steps = report.step_numbers
    upper.plot(steps, report.losses, color="#9db8d9", linewidth=0.7, label="loss of a step")
    upper.plot(steps, smooth(report.losses), color="#1f4e8c", linewidth=1.6, label="smoothed")
    if report.validation:
        upper.plot(*zip(*report.validation, strict=True), "o-", color="#c0392b", markersize=3, label="validation")
    upper.set_ylabel("loss")
    upper.set_title(_plain(f"{report.name}: {len(steps)} steps"))
    upper.legend(loc="upper right", frameon=False)
    for name, rates in report.rates.items():
        lower.plot(steps, rates, linewidth=1.2, label=_plain(name))
    lower.set_ylabel("learning rate")
    lower.set_xlabel("step")
    if _wide(report):
        lower.set_yscale("log")
    else:
        lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    if report.rates:
        lower.legend(loc="upper right", frameon=False)
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
    return figure


def _wide(report: RunReport) -> bool:
    """Whether the groups' highest rates are so far apart that one could not be seen beside the other."""
    tops = [top for top in (max(rates, default=0.0) for rates in report.rates.values()) if top > 0]
    return bool(tops) and max(tops) > 50 * min(tops)


def _plain(text: str) -> str:
    """Text without matplotlib's mathematics."""
    return text.replace("$", r"\$")
