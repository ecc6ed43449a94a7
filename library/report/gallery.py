"""A page of picture tables that can be looked through: cells grow and shrink, a click shows a picture large, arrows go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.report import html
from library.util.said import say

if TYPE_CHECKING:
    from PIL import Image

STYLE = """
.bar { position: sticky; top: 0; padding: .4rem 0; background: Canvas; z-index: 3; display: flex; gap: 1.2rem; flex-wrap: wrap; }
.sheet { overflow-x: auto; margin-bottom: 1.5rem; } .sheet table { width: auto; }
.sheet td, .sheet th { border: 0; padding: 3px; text-align: center; } .sheet thead th { vertical-align: bottom; }
.sheet th.row { position: sticky; left: 0; background: Canvas; text-align: right; vertical-align: middle; max-width: 16em;
  padding-right: .8rem; font-weight: 600; }
.sheet img { width: var(--cell); cursor: zoom-in; display: inline-block; margin: 1px;
  border-radius: 3px; }
.sheet img.small { image-rendering: pixelated; }
.sheet .best { outline: 3px solid var(--best); outline-offset: 1px; border-radius: 4px; }
.note { font-size: 12px; opacity: .75; }
#large { position: fixed; inset: 0; background: #000d; display: none; z-index: 9;
  align-items: center; justify-content: center; flex-direction: column; gap: .6rem; color: #eee; }
#large.open { display: flex; } #large img { max-width: 94vw; max-height: 82vh; min-width: min(60vmin, 94vw); object-fit: contain;
  cursor: grab; transform-origin: center; } #large p { margin: 0; max-width: 90vw; text-align: center; }
"""
SCRIPT = """
const cells = [...document.querySelectorAll('.sheet img')], large = document.getElementById('large');
const big = large.querySelector('img'), words = large.querySelector('p');
let at = 0, zoom = 1, x = 0, y = 0;
function place() { big.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`; }
function show(n) { at = (n + cells.length) % cells.length; big.src = cells[at].src; big.className = cells[at].className;
  big.style.imageRendering = cells[at].classList.contains('small') ? 'pixelated' : 'auto'; words.textContent = cells[at].title;
  zoom = 1; x = y = 0; place(); large.classList.add('open'); }
cells.forEach((cell, n) => cell.addEventListener('click', () => show(n)));
large.addEventListener('click', event => { if (event.target !== big) large.classList.remove('open'); });
large.addEventListener('wheel', event => { event.preventDefault();
  zoom = Math.min(16, Math.max(.5, zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2))); place(); }, { passive: false });
big.addEventListener('pointerdown', event => { big.setPointerCapture(event.pointerId); });
big.addEventListener('pointermove', event => { if (event.buttons) { x += event.movementX; y += event.movementY; place(); } });
big.addEventListener('dragstart', event => event.preventDefault());
document.addEventListener('keydown', event => { if (!large.classList.contains('open')) return;
  if (event.key === 'Escape') large.classList.remove('open');
  if (event.key === 'ArrowRight') show(at + 1); if (event.key === 'ArrowLeft') show(at - 1); });
const size = document.getElementById('size');
size.addEventListener('input', () => document.documentElement.style.setProperty('--cell', size.value + 'px'));
"""
SMALL = 160
"""Pictures below this side are shown with their pixels sharp."""


@dataclass(frozen=True)
class Photo:
    """A picture of a cell with the words that stand under it when it is shown large."""

    picture: Image.Image
    words: str = ""


@dataclass(frozen=True)
class Spot:
    """A cell: its pictures, a line below them, whether it is the suggested one."""

    photos: Sequence[Photo]
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """One table of cells under a heading."""

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    spots: Sequence[Sequence[Spot]]
    """[row][column]."""


def page(title: str, intro: str, tables: Sequence[Table], outro: str = "") -> str:
    """The whole page; ``intro`` and ``outro`` are HTML around the tables."""
    return html.document(title, intro + tables_part(tables) + outro, STYLE, SCRIPT, wide=True)


def tables_part(tables: Sequence[Table]) -> str:
    """The tables with the controls that their style and script need."""
    side = max(photo.picture.width for table in tables for row in table.spots for spot in row for photo in spot.photos)
    cell = min(256, max(96, side))
    size = html.text(say("picture size"))
    way = html.text(say("click a picture to see it large; arrows go on, the wheel zooms, Esc closes"))
    bar = (f'<div class="bar"><label>{size} <input id="size" type="range" min="48" max="640" value="{cell}"></label>'
           f'<span class="quiet">{way}</span></div>\n')
    large = '<div id="large"><img alt=""><p></p></div>\n'
    return f"<style>:root {{ --cell: {cell}px; }}</style>\n{bar}{''.join(_table(table) for table in tables)}{large}"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.text(words)}</th>" for words in table.columns)
    named = any(table.rows)
    rows = "\n".join("<tr>" + (f'<th class="row">{html.text(words)}</th>' if named else "")
                     + "".join(_spot(spot) for spot in row) + "</tr>"
                     for words, row in zip(table.rows, table.spots, strict=True))
    title = f"<h2>{html.text(table.title)}</h2>\n" if table.title else ""
    return (f'{title}<div class="sheet"><table>\n<thead><tr>{"<th></th>" if named else ""}{head}</tr></thead>\n'
            f"<tbody>\n{rows}\n</tbody></table></div>\n")


def _spot(spot: Spot) -> str:
    pictures = "".join(_photo(photo) for photo in spot.photos)
    note = f'<div class="note">{html.text(spot.note)}</div>' if spot.note else ""
    return f'<td><div{" class=best" if spot.best else ""}>{pictures}{note}</div></td>'


def _photo(photo: Photo) -> str:
    kind = ' class="small"' if min(photo.picture.size) < SMALL else ""
    words = html.text(photo.words)
    return f'<img{kind} alt="{words}" title="{words}" src="{html.picture(photo.picture)}">'
