"""What was found out about a LoRA file, as lines for a person and as a picture."""

from __future__ import annotations

import math
import statistics
from collections import Counter

from library.lorafile.examine import Report


def as_text(report: Report) -> str:
    """The report as lines for a person."""
    ranks = Counter(layer.rank for layer in report.layers if layer.rank)
    lines = [f"{report.path}: {report.kind}, {len(report.layers)} modules, {report.fmt} format, {report.dtype}",
             f"made for: {report.made_for}"]
    if report.loads_in:
        lines.append("loads in: " + ", ".join(report.loads_in))
    if ranks:
        lines.append("rank: " + _counted(ranks))
    if alphas := Counter(layer.alpha for layer in report.layers if layer.alpha is not None):
        lines.append("alpha: " + _counted(alphas))
    lines += [f"{name}: {value}" for name, value in report.settings.items()]
    if report.words:
        lines.append("words: " + ", ".join(f"{word} ({count})" if count else word for word, count in report.words))
    lines += ["", f"{'block':28} {'layers':>6} {'norm':>10} {'effective rank':>14}"]
    for block, norm in report.blocks.items():
        own = [layer for layer in report.layers if layer.block == block]
        used = [layer.effective_rank for layer in own if layer.effective_rank is not None]
        lines.append(f"{block:28} {len(own):>6} {norm:>10.4f} {statistics.mean(used) if used else math.nan:>14.2f}")
    counts = Counter(layer.fault for layer in report.faults)
    lines += ["", "health: " + (", ".join(f"{count} {fault}" for fault, count in counts.items()) if counts else "good")]
    lines += [f"  {layer.fault:9} {layer.stem} (norm {layer.norm:.4g})" for layer in report.faults[:10]]
    return "\n".join(lines)


def _counted(values: Counter) -> str:
    if len(values) == 1:
        return f"{next(iter(values)):g}"
    return ", ".join(f"{value:g} ({count} modules)" for value, count in sorted(values.items()))


def picture(report: Report, path: str) -> None:
    """Draw norm and effective rank of every block into a picture file; blocks with a faulty layer are red."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = report.blocks
    figure = Figure(figsize=(max(6, 0.35 * len(blocks)), 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    faulty = {layer.block for layer in report.faults}
    heights = [norm if math.isfinite(norm) else 0.0 for norm in blocks.values()]
    upper.bar(range(len(blocks)), heights, color=["#cc3311" if block in faulty else "#4477aa" for block in blocks])
    upper.set_ylabel("norm of the change")
    told = f" - {len(report.faults)} faulty layers (red)" if faulty else ""
    upper.set_title(report.path.replace("\\", "/").rsplit("/", 1)[-1] + told)
    used = [[layer.effective_rank or 0.0 for layer in report.layers if layer.block == block] for block in blocks]
    lower.bar(range(len(blocks)), [statistics.mean(values) for values in used], color="#66aa77")
    lower.set_ylabel("effective rank")
    lower.set_xticks(range(len(blocks)), list(blocks), rotation=90, fontsize=7)
    figure.savefig(path, dpi=110)
