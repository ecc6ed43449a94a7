"""What every page of ours shares: one file that opens from disk without a network, its look, tables and pictures."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from library.util.language import language_of
from library.util.said import Said, spoken
from library.util.secrets import mask

if TYPE_CHECKING:
    from PIL import Image

STYLE = """
:root { color-scheme: light dark; --faint: #8886; --ink: #1f4e8c; --best: #d98e00; }
body { font: 15px/1.5 system-ui, "Segoe UI", Meiryo, "Hiragino Sans", "Noto Sans CJK JP", sans-serif;
  max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
body.wide { max-width: none; margin: 1.2rem; }
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


def document(title: str, body: str, style: str = "", script: str = "", wide: bool = False) -> str:
    """A whole page; ``body`` is HTML, ``title`` plain text."""
    return (f'<!DOCTYPE html>\n<html lang="{language_of()}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{text(title)}</title>\n'
            f"<style>{STYLE}{style}</style>\n</head>\n<body{' class=wide' if wide else ''}>\n<h1>{text(title)}</h1>\n{body}\n"
            + (f"<script>{script}</script>\n" if script else "") + "</body>\n</html>\n")


def write(path: Path, content: str) -> Path:
    """Write a page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".tmp")
    half.write_text(content, encoding="utf-8", newline="\n")
    os.replace(half, path)
    return path


def text(words: str) -> str:
    """Plain words for a page, sentences in the user's language; anything shaped like a token or key is masked."""
    return escape(mask(spoken(words) if isinstance(words, Said) else words))


def sections(parts: Iterable[tuple[str, str]]) -> str:
    """(heading, HTML) one below the other; those without content are left out."""
    return "\n".join((f"<h2>{text(heading)}</h2>\n" if heading else "") + content for heading, content in parts if content)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: tuple[int, ...] = (), kind: str = "") -> str:
    """A table; ``rows`` hold HTML already, columns in ``numbers`` stand to the right; none where there is no row."""
    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="number"' if place in numbers else "" for place in range(len(cells))]
        filled = "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{filled}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    opening = f'<table class="{kind}">' if kind else "<table>"
    above = line("th", [text(words) for words in head])
    return f"{opening}\n<thead>{above}</thead>\n<tbody>\n{body}\n</tbody>\n</table>" if body else ""


def link(path: Path, folder: Path) -> str:
    """An address from the page's folder that still works when both are moved together; absolute across drives."""
    from urllib.parse import quote

    try:
        return quote(Path(os.path.relpath(path, folder)).as_posix())
    except ValueError:
        return path.absolute().as_uri()


def figure(caption: str, source: str) -> str:
    """A picture under its caption; ``source`` as ``picture`` or ``picture_file`` give it."""
    return f'<figure><figcaption>{text(caption)}</figcaption><img alt="{text(caption)}" src="{source}"></figure>\n'


def picture(image: Image.Image) -> str:
    """A picture as the address of an ``img``, its bytes inside."""
    memory = io.BytesIO()
    image.save(memory, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(memory.getvalue()).decode('ascii')}"


def picture_file(path: Path) -> str:
    """The same of a picture file, its bytes as they are."""
    kind = path.suffix.lower().lstrip(".").replace("jpg", "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
