"""``report.html``: a run on one page that opens from disk without a network. Pictures and curves are inside it."""

from __future__ import annotations

from html import escape
from pathlib import Path

from library.report import html
from library.report.before_after import by_prompt, over_time
from library.report.curves import response_svg, svg
from library.report.final_words import duration, size
from library.report.html import text as _text
from library.report.record import BEFORE_AND_AFTER, LOSS_PLOT, DataLine, FileLine, RunReport
from library.util.said import say


def write_page(report: RunReport, path: Path | None = None) -> Path:
    """Write the run's page, whole or not at all: ``report.html`` in its output folder, or at ``path``."""
    path = path or report.output_dir / "report.html"
    return html.write(path, page(report, path.parent))


def page(report: RunReport, folder: Path | None = None) -> str:
    """The page as text, with links as seen from ``folder``; anything shaped like a token or key is masked."""
    folder = folder or report.output_dir
    sections = [
        ("", _summary(report)),
        (say("Diagnosis"), "".join(f"<p>{_text(line)}</p>" for line in report.diagnosis)),
        (say("Warnings"), "".join(f'<p class="warning">{_text(warning)}</p>' for warning in report.warnings)),
        (say("Curves"), svg(report) if report.losses else ""),
        ("", "".join(html.figure(say(title), html.picture_file(path)) for title, path in report.pictures.items()
                     if title != LOSS_PLOT and _shown(path))),
        (say("Slider"), _slider(report)),
        (say("Samples over time"), _samples(report)),
        (say("Files"), _files(report, folder)),
        (say("Data"), _data(report)),
        (say("Settings"), _settings(report)),
        (say("The same run again"), f"<pre>{_text(report.command)}</pre>" if report.command else ""),
    ]
    return html.document(report.name, html.sections(sections))


def _slider(report: RunReport) -> str:
    """Response at each strength as a curve and a table, and what was measured."""
    if not report.slider:
        return ""
    rows = [(f"{strength:+g}", f"{response:+.3f}") for strength, response in report.slider]
    table = html.table((say("strength"), say("effect")), rows, (0, 1))
    return response_svg(report.slider) + table + "".join(f"<p>{_text(line)}</p>" for line in report.slider_words)


def _summary(report: RunReport) -> str:
    facts: list[str] = [say("{steps:step|steps}", steps=report.steps), say("{epochs:epoch|epochs}", epochs=report.epochs),
                        duration(report.seconds)]
    if report.losses:
        last = report.losses[-max(1, len(report.losses) // 10):]
        facts.append(say("mean loss of the last tenth {loss:.4f}", loss=sum(last) / len(last)))
    facts += [say("stopped early: {stopped}", stopped=report.stopped)] if report.stopped else []
    lines: list[str] = [say("{facts}", facts=facts)]
    lines += [say("Base model: {model} ({family})", model=report.base_model, family=report.family)] if report.base_model else []
    lines += [report.program] if report.program else []
    return "".join(f"<p>{_text(line)}</p>" for line in lines)


def _samples(report: RunReport) -> str:
    """A strip for each prompt; none where first and last are all there is and stand side by side already."""
    if BEFORE_AND_AFTER in report.pictures and all(len(lines) <= 2 for lines in by_prompt(report.samples)):
        return ""
    return "".join(html.figure(prompt, html.picture(strip)) for prompt, strip in over_time(report.samples))


def _files(report: RunReport, folder: Path) -> str:
    head = (say("file"), say("epoch"), say("step"), say("size"), say("loads in"), "sha256")
    states = "".join(f"<p>{_text(say('State to go on from with --resume:'))} <code>{_text(str(state))}</code></p>"
                     for state in report.states[-1:])
    return html.table(head, [_file(line, folder) for line in report.files], (1, 2, 3)) + states


def _file(line: FileLine, folder: Path) -> tuple[str, ...]:
    number = ["" if count is None else str(count) for count in (line.epoch, line.step)]
    return (f'<a href="{escape(html.link(line.path, folder))}">{_text(line.path.name)}</a>', *number, size(line.bytes),
            _text(say("{programs}", programs=list(line.loads_in))), f'<code class="hash">{escape(line.sha256)}</code>')


def _data(report: RunReport) -> str:
    head = (say("folder"), say("pictures"), say("captions"), say("repeats"), say("an epoch"), "")
    folders = html.table(head, [_folder(line) for line in report.data], (1, 2, 3, 4))
    sizes = ((_text(name), str(count)) for name, count in report.buckets)
    return folders + html.table((say("bucket"), say("pictures")), sizes, (1,))


def _folder(line: DataLine) -> tuple[str, ...]:
    remarks = [say("regularisation")] if line.is_reg else []
    remarks += [say("strength {strength:+g}", strength=line.strength)] if line.strength is not None else []
    return (_text(line.folder), str(line.pictures), str(line.captions), str(line.repeats),
            str(line.pictures * line.repeats), _text(say("{remarks}", remarks=remarks)))


def _settings(report: RunReport) -> str:
    """Settings that somebody chose first and open, defaults folded away."""
    def table(defaults: bool) -> str:
        chosen = [line for line in report.settings if (line.origin == "default") is defaults]
        return html.table((say("setting"), say("value"), say("from")), (
            (f"<code>{_text(line.name)}</code>", f"<code>{_text(line.value)}</code>",
             f'<span class="quiet">{_text(line.origin)}</span>') for line in chosen))
    defaults = table(True)
    return table(False) + (f"<details><summary>{_text(say('Defaults'))}</summary>\n{defaults}\n</details>" if defaults else "")


def _shown(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
