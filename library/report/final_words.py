"""The last lines of a run: what was made, where it is, what to do with it."""

from __future__ import annotations

from library.report.record import RunReport
from library.util.said import say

FEWEST = 10
"""Steps in a tenth of the run below which its mean loss says more about the noise drawn than about learning."""


BY_PROMPT = {"A1111", "Forge"}
"""Programs in which a LoRA is named in the prompt."""


def final_words(report: RunReport) -> list[str]:
    """Lines for the console, made for reading: files, pictures, loss, next step."""
    lines = [""]
    done = {"name": report.name, "steps": report.steps, "time": duration(report.seconds)}
    lines.append(say("{name}: {steps:step|steps} in {time}, stopped early: {stopped}", **done, stopped=report.stopped)
                 if report.stopped else say("{name}: {steps:step|steps} in {time}, done.", **done))  # fmt: skip
    lines += _loss(report)
    lines += [say("  {line}", line=line) for line in report.diagnosis]
    lines += _files(report)
    for title, path in report.pictures.items():
        lines.append(say("  {title}: {path}", title=say(title), path=path))
    if report.states:
        lines.append(say("  state to go on from: {state}   (--resume)", state=report.states[-1]))
    if report.warnings:
        lines.append(say("  warnings: {count}, written above and in the report", count=len(report.warnings)))
    return lines + _next(report)


def _loss(report: RunReport) -> list[str]:
    count = len(report.losses) // 10
    if count < FEWEST:
        return []
    first, last = sum(report.losses[:count]) / count, sum(report.losses[-count:]) / count
    return [say("  mean loss fell from {first:.4f} (first tenth) to {last:.4f} (last tenth)" if last < first
                else "  mean loss rose from {first:.4f} (first tenth) to {last:.4f} (last tenth)", first=first, last=last)]


def _files(report: RunReport) -> list[str]:
    if not report.files:
        return [say("  no file was saved")]
    last = report.files[-1]
    lines: list[str] = [say("  LoRA: {path} ({size})", path=last.path, size=size(last.bytes))]
    if last.loads_in:
        lines.append(say("  loads in: {programs}", programs=list(last.loads_in)))
    else:
        lines.append(say("  no image program loads this spelling as it is: train with --save_format=comfy, or convert the file "
                         "(docs/lora-tools.md)"))  # fmt: skip
    if report.text_ignored_by:
        lines.append(say("  left out by {programs}: what was learned in the text encoder; pictures there differ from the samples "
                         "(--network_train_unet_only trains none of it)", programs=list(report.text_ignored_by)))  # fmt: skip
    if len(report.files) > 1:
        lines.append(say("  and {count:earlier file|earlier files} in {folder}", count=len(report.files) - 1,
                         folder=report.output_dir))  # fmt: skip
    return lines


def _next(report: RunReport) -> list[str]:
    if not report.files:
        return []
    last = report.files[-1]
    if not last.loads_in:
        return []
    if not BY_PROMPT & set(last.loads_in):
        return [say("Next: copy {file} into ComfyUI's folder models/loras and choose it in a Load LoRA node; strengths from -1 to "
                    "1 slide." if report.slides else
                    "Next: copy {file} into ComfyUI's folder models/loras and choose it in a Load LoRA node; try 0.6 to 0.8 where "
                    "it is too strong.", file=last.path.name)]  # fmt: skip
    advice = say("{how} or <lora:{stem}:-1> in a prompt; less does less" if report.slides
                 else "{how} in a prompt; try 0.6 to 0.8 where it is too strong", how=f"<lora:{last.path.stem}:1>",
                 stem=last.path.stem)  # fmt: skip
    return [say("Next: copy {file} into your image program's LoRA folder and write {advice}, or an earlier file."
                if len(report.files) > 1 else "Next: copy {file} into your image program's LoRA folder and write {advice}.",
                file=last.path.name, advice=advice)]


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
