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


def write_page(report: RunReport, path: Path | None = None) -> Path:
    """Write the run's page, whole or not at all: ``report.html`` in its output folder, or at ``path``."""
    path = path or report.output_dir / "report.html"
    return html.write(path, page(report, path.parent))


def page(report: RunReport, folder: Path | None = None) -> str:
    """The page as text, with links as seen from ``folder``; anything shaped like a token or key is masked."""
    folder = folder or report.output_dir
    sections = [
        ("", _summary(report)),
        ("Diagnosis", "".join(f"<p>{_text(line)}</p>" for line in report.diagnosis)),
        ("Warnings", "".join(f'<p class="warning">{_text(warning)}</p>' for warning in report.warnings)),
        ("Curves", svg(report) if report.losses else ""),
        ("", "".join(html.figure(title, html.picture_file(path)) for title, path in report.pictures.items()
                     if title != LOSS_PLOT and _shown(path))),
        ("Slider", _slider(report)),
        ("Samples over time", _samples(report)),
        ("Files", _files(report, folder)),
        ("Data", _data(report)),
        ("Settings", _settings(report)),
        ("The same run again", f"<pre>{_text(report.command)}</pre>" if report.command else ""),
    ]
    return html.document(report.name, html.sections(sections))


def _slider(report: RunReport) -> str:
    """Response at each strength as a curve and a table, and what was measured."""
    if not report.slider:
        return ""
    rows = [(f"{strength:+g}", f"{response:+.3f}") for strength, response in report.slider]
    table = html.table(("strength", "effect"), rows, (0, 1))
    return response_svg(report.slider) + table + "".join(f"<p>{_text(line)}</p>" for line in report.slider_words)


def _summary(report: RunReport) -> str:
    facts = [f"{report.steps} steps", f"{report.epochs} epoch{'' if report.epochs == 1 else 's'}",
             duration(report.seconds)]
    if report.losses:
        last = report.losses[-max(1, len(report.losses) // 10):]
        facts.append(f"mean loss of the last tenth {sum(last) / len(last):.4f}")
    lines = [", ".join(facts) + (f", stopped early: {report.stopped}" if report.stopped else "")]
    lines += [f"Base model: {report.base_model} ({report.family})"] if report.base_model else []
    lines += [report.program] if report.program else []
    return "".join(f"<p>{_text(line)}</p>" for line in lines)


def _samples(report: RunReport) -> str:
    """A strip for each prompt; none where first and last are all there is and stand side by side already."""
    if BEFORE_AND_AFTER in report.pictures and all(len(lines) <= 2 for lines in by_prompt(report.samples)):
        return ""
    return "".join(html.figure(prompt, html.picture(strip)) for prompt, strip in over_time(report.samples))


def _files(report: RunReport, folder: Path) -> str:
    head = ("file", "epoch", "step", "size", "loads in", "sha256")
    states = "".join(f"<p>State to go on from with --resume: <code>{_text(str(state))}</code></p>"
                     for state in report.states[-1:])
    return html.table(head, [_file(line, folder) for line in report.files], (1, 2, 3)) + states


def _file(line: FileLine, folder: Path) -> tuple[str, ...]:
    number = ["" if count is None else str(count) for count in (line.epoch, line.step)]
    return (f'<a href="{escape(html.link(line.path, folder))}">{_text(line.path.name)}</a>', *number, size(line.bytes),
            _text(", ".join(line.loads_in)), f'<code class="hash">{escape(line.sha256)}</code>')


def _data(report: RunReport) -> str:
    head = ("folder", "pictures", "captions", "repeats", "an epoch", "")
    folders = html.table(head, [_folder(line) for line in report.data], (1, 2, 3, 4))
    return folders + html.table(("bucket", "pictures"), ((_text(name), str(count)) for name, count in report.buckets), (1,))


def _folder(line: DataLine) -> tuple[str, ...]:
    remarks = ["regularisation"] if line.is_reg else []
    remarks += [f"strength {line.strength:+g}"] if line.strength is not None else []
    return (_text(line.folder), str(line.pictures), str(line.captions), str(line.repeats),
            str(line.pictures * line.repeats), ", ".join(remarks))


def _settings(report: RunReport) -> str:
    """Settings that somebody chose first and open, defaults folded away."""
    def table(defaults: bool) -> str:
        chosen = [line for line in report.settings if (line.origin == "default") is defaults]
        return html.table(("setting", "value", "from"), (
            (f"<code>{_text(line.name)}</code>", f"<code>{_text(line.value)}</code>",
             f'<span class="quiet">{_text(line.origin)}</span>') for line in chosen))
    defaults = table(True)
    return table(False) + (f"<details><summary>Defaults</summary>\n{defaults}\n</details>" if defaults else "")


def _shown(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
