"""``report.html``: a run on one page that opens from disk without a network. Pictures and curves are inside it."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from library.report.before_after import by_prompt, over_time
from library.report.curves import svg
from library.report.final_words import duration, size
from library.report.record import BEFORE_AND_AFTER, LOSS_PLOT, DataLine, FileLine, RunReport
from library.util.secrets import mask

if TYPE_CHECKING:
    from PIL import Image

STYLE = """
:root { color-scheme: light dark; --faint: #8886; --ink: #1f4e8c; }
body { font: 15px/1.5 system-ui, "Segoe UI", Meiryo, "Hiragino Sans", "Noto Sans CJK JP", sans-serif;
  max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--faint); }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid var(--faint); vertical-align: top; }
td.number, th.number { text-align: right; } code, pre { font-family: Consolas, Menlo, monospace; font-size: 13px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .8rem; border-radius: 6px; }
.hash { overflow-wrap: anywhere; } .quiet { opacity: .65; }
.warning { border-left: 4px solid #d98e00; padding-left: .8rem; }
img, svg { max-width: 100%; height: auto; } svg { background: white; }
figure { margin: 1rem 0; } figcaption { opacity: .8; }
"""


def write_page(report: RunReport, path: Path | None = None) -> Path:
    """Write the run's page, whole or not at all: ``report.html`` in its output folder, or at ``path``."""
    path = path or report.output_dir / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".tmp")
    half.write_text(page(report, path.parent), encoding="utf-8", newline="\n")
    os.replace(half, path)
    return path


def page(report: RunReport, folder: Path | None = None) -> str:
    """The page as text, with links as seen from ``folder``; anything shaped like a token or key is masked."""
    folder = folder or report.output_dir
    sections = [
        ("", _summary(report)),
        ("Warnings", "".join(f'<p class="warning">{_text(warning)}</p>' for warning in report.warnings)),
        ("Curves", svg(report) if report.losses else ""),
        ("", "".join(_figure(title, _picture_file(path)) for title, path in report.pictures.items()
                     if title != LOSS_PLOT and _shown(path))),
        ("Samples over time", _samples(report)),
        ("Files", _files(report, folder)),
        ("Data", _data(report)),
        ("Settings", _settings(report)),
        ("The same run again", f"<pre>{_text(report.command)}</pre>" if report.command else ""),
    ]
    body = "\n".join((f"<h2>{title}</h2>\n" if title else "") + content for title, content in sections if content)
    name = _text(report.name)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{name}</title>\n'
            f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n{body}\n</body>\n</html>\n")


def _text(text: str) -> str:
    return escape(mask(text))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: tuple[int, ...] = ()) -> str:
    """A table; ``rows`` hold HTML already, columns in ``numbers`` stand to the right."""
    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="number"' if place in numbers else "" for place in range(len(cells))]
        filled = "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{filled}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f"<table>\n<thead>{line('th', head)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>" if body else ""


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
    return "".join(_figure(prompt, _picture(strip)) for prompt, strip in over_time(report.samples))


def _files(report: RunReport, folder: Path) -> str:
    head = ("file", "epoch", "step", "size", "loads in", "sha256")
    states = "".join(f"<p>State to go on from with --resume: <code>{_text(str(state))}</code></p>"
                     for state in report.states[-1:])
    return _table(head, [_file(line, folder) for line in report.files], (1, 2, 3)) + states


def _file(line: FileLine, folder: Path) -> tuple[str, ...]:
    number = ["" if count is None else str(count) for count in (line.epoch, line.step)]
    return (f'<a href="{escape(_link(line.path, folder))}">{_text(line.path.name)}</a>', *number, size(line.bytes),
            _text(", ".join(line.loads_in)), f'<code class="hash">{escape(line.sha256)}</code>')


def _link(path: Path, folder: Path) -> str:
    """A link from the page's folder that still works when both are moved together; absolute across drives."""
    from urllib.parse import quote

    try:
        return quote(Path(os.path.relpath(path, folder)).as_posix())
    except ValueError:
        return path.absolute().as_uri()


def _data(report: RunReport) -> str:
    head = ("folder", "pictures", "captions", "repeats", "an epoch", "")
    folders = _table(head, [_folder(line) for line in report.data], (1, 2, 3, 4))
    return folders + _table(("bucket", "pictures"), ((_text(name), str(count)) for name, count in report.buckets), (1,))


def _folder(line: DataLine) -> tuple[str, ...]:
    remarks = ["regularisation"] if line.is_reg else []
    remarks += [f"strength {line.strength:+g}"] if line.strength is not None else []
    return (_text(line.folder), str(line.pictures), str(line.captions), str(line.repeats),
            str(line.pictures * line.repeats), ", ".join(remarks))


def _settings(report: RunReport) -> str:
    """Settings that somebody chose first and open, defaults folded away."""
    def table(defaults: bool) -> str:
        chosen = [line for line in report.settings if (line.origin == "default") is defaults]
        return _table(("setting", "value", "from"), (
            (f"<code>{_text(line.name)}</code>", f"<code>{_text(line.value)}</code>",
             f'<span class="quiet">{_text(line.origin)}</span>') for line in chosen))
    defaults = table(True)
    return table(False) + (f"<details><summary>Defaults</summary>\n{defaults}\n</details>" if defaults else "")


def _shown(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")


def _figure(caption: str, source: str) -> str:
    return f'<figure><figcaption>{_text(caption)}</figcaption><img alt="{_text(caption)}" src="{source}"></figure>\n'


def _picture_file(path: Path) -> str:
    kind = path.suffix.lower().lstrip(".").replace("jpg", "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _picture(picture: Image.Image) -> str:
    memory = io.BytesIO()
    picture.save(memory, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(memory.getvalue()).decode('ascii')}"
