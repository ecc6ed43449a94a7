"""The last lines of a run: what was made, where it is, what to do with it."""

from __future__ import annotations

from library.report.record import RunReport

FEWEST = 10
"""Steps in a tenth of the run below which its mean loss says more about the noise drawn than about learning."""


def final_words(report: RunReport) -> list[str]:
    """Lines for the console, made for reading: files, pictures, loss, next step."""
    lines = [""]
    end = f"{report.name}: {report.steps} steps in {duration(report.seconds)}"
    lines.append(f"{end}, stopped early: {report.stopped}" if report.stopped else f"{end}, done.")
    lines += _loss(report)
    lines += [f"  {line}" for line in report.diagnosis]
    lines += _files(report)
    for title, path in report.pictures.items():
        lines.append(f"  {title}: {path}")
    if report.states:
        lines.append(f"  state to go on from: {report.states[-1]}   (--resume)")
    if report.warnings:
        lines.append(f"  warnings: {len(report.warnings)}, written above and in the report")
    return lines + _next(report)


def _loss(report: RunReport) -> list[str]:
    count = len(report.losses) // 10
    if count < FEWEST:
        return []
    first, last = sum(report.losses[:count]) / count, sum(report.losses[-count:]) / count
    word = "fell" if last < first else "rose"
    return [f"  mean loss {word} from {first:.4f} (first tenth) to {last:.4f} (last tenth)"]


def _files(report: RunReport) -> list[str]:
    if not report.files:
        return ["  no file was saved"]
    last = report.files[-1]
    lines = [f"  LoRA: {last.path} ({size(last.bytes)})"]
    if last.loads_in:
        lines.append("  loads in: " + ", ".join(last.loads_in))
    if report.text_ignored_by:
        lines.append(f"  left out by {', '.join(report.text_ignored_by)}: what was learned in the text encoder; pictures there "
                     "differ from the samples (--network_train_unet_only trains none of it)")
    if len(report.files) > 1:
        lines.append(f"  and {len(report.files) - 1} earlier files in {report.output_dir}")
    return lines


def _next(report: RunReport) -> list[str]:
    if not report.files:
        return []
    last = report.files[-1]
    advice = (f" or <lora:{last.path.stem}:-1> in a prompt; less does less" if report.slides
              else " in a prompt; try 0.6 to 0.8 where it is too strong")
    words = f"Next: copy {last.path.name} into your image program's LoRA folder and write <lora:{last.path.stem}:1>{advice}"
    return [words + (", or an earlier file." if len(report.files) > 1 else ".")]


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 5 s``, ``2 h 7 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """``812 bytes``, ``41.2 KB``, ``18.5 MB``: decimal units, as file managers of phones and shops use them."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
