"""A page of thumbnails to look through: tick boxes, filters, and a button that saves a drop list. Opens from disk."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from library.report import html
from library.util.said import say

STYLE = """
.bar { position: sticky; top: 0; background: Canvas; padding: .6rem 0; z-index: 1; border-bottom: 1px solid var(--faint); }
.bar input[type=search] { width: 16rem; } .bar > * { margin-right: .8rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: .7rem; margin: .8rem 0; }
.card { border: 1px solid var(--faint); border-radius: 6px; padding: .5rem; font-size: 12.5px; overflow-wrap: anywhere;
  content-visibility: auto; contain-intrinsic-size: 180px 290px; }
.card img { display: block; margin: 0 auto .4rem; height: 160px; object-fit: contain; }
.card.dropped { outline: 3px solid #c62828; } .card.dropped img { opacity: .45; } .card.best { outline: 3px solid #2e7d32; }
.card b { display: block; } .card .remark { background: #d98e0033; border-radius: 4px; padding: 0 .3rem; display: inline-block; }
[hidden] { display: none !important; }
"""
SCRIPT = """
const cards = [...document.querySelectorAll('.card')], find = document.getElementById('find'),
  odd = document.getElementById('odd'), folder = document.getElementById('folder'), count = document.getElementById('count');
const box = card => card.querySelector('input');
function dropList() {
  return JSON.stringify({root: document.body.dataset.root,
    drop: cards.filter(card => box(card).checked).map(card => card.dataset.picture)}, null, 1);
}
function refresh() {
  const words = find.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const card of cards) {
    const text = card.textContent.toLowerCase();
    card.hidden = !words.every(word => text.includes(word)) || (odd.checked && !card.querySelector('.remark'))
      || (folder.value && folder.value !== card.dataset.folder);
    card.classList.toggle('dropped', box(card).checked);
  }
  for (const group of document.querySelectorAll('.group')) group.hidden = !group.querySelector('.card:not([hidden])');
  count.textContent = count.dataset.words.replace('#', cards.filter(card => box(card).checked).length).replace('#', cards.length);
}
function tickShown(on) { for (const card of cards) if (!card.hidden) box(card).checked = on; refresh(); }
function save() {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([dropList()], {type: 'application/json'}));
  link.download = 'drop-list.json'; link.click();
}
document.addEventListener('input', refresh); refresh();
"""


@dataclass(frozen=True)
class Card:
    """A picture on the page."""

    picture: str
    folder: str
    thumbnail: bytes
    lines: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    ticked: bool = False
    best: bool = False


@dataclass(frozen=True)
class Group:
    """Cards below one heading; "" for none."""

    heading: str
    cards: tuple[Card, ...]


def page(title: str, root: str, above: str, groups: Sequence[Group]) -> str:
    """The page; ``above`` is HTML that stands before the pictures."""
    folders = sorted({card.folder for group in groups for card in group.cards})
    options = "".join(f"<option>{html.text(name)}</option>" for name in folders)
    find, odd, all_folders, tick, untick, save, ticked = (html.text(words) for words in (
        say("find in names, captions, remarks"), say("only with remarks"), say("all folders"), say("tick what is shown"),
        say("untick what is shown"), say("Save drop list"), say("{ticked} of {all} ticked", ticked="#", all="#")))
    bar = (f'<div class="bar"><input id="find" type="search" placeholder="{find}"> '
           f'<label><input id="odd" type="checkbox"> {odd}</label> '
           f'<select id="folder"><option value="">{all_folders}</option>{options}</select> '
           f'<button onclick="tickShown(true)">{tick}</button> <button onclick="tickShown(false)">{untick}</button> '
           f'<button onclick="save()"><b>{save}</b></button> <span id="count" data-words="{ticked}"></span></div>')
    note = "<p class=\"quiet\">" + html.text(say(
        "Tick what is to go, save the list, then move it aside with: {command} (undo takes it back)", command="#")).replace(
        "#", "<code>python tools/dataset.py apply FOLDER drop-list.json --yes</code>") + "</p>"
    body = above + f"<h2>{html.text(say('Pictures'))}</h2>" + note + bar + "".join(_group(group) for group in groups)
    mark = f"document.body.dataset.root = {json.dumps(root).replace('<', chr(92) + 'u003c')};"
    return html.document(title, body, STYLE, mark + SCRIPT, wide=True)


def _group(group: Group) -> str:
    heading = f"<h3>{html.text(group.heading)}</h3>" if group.heading else ""
    return f'<div class="group">{heading}<div class="cards">{"".join(map(_card, group.cards))}</div></div>\n'


def _card(card: Card) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(card.thumbnail).decode('ascii')}" if card.thumbnail else ""
    image = f'<img alt="" src="{source}">' if source else f"<p>{html.text(say('(no picture)'))}</p>"
    lines = "".join(f"<div>{html.text(line)}</div>" for line in card.lines)
    marks = " ".join(f'<span class="remark">{html.text(one)}</span>' for one in card.remarks)
    name = card.picture.rsplit("/", 1)[-1]
    return (f'<div class="card{" best" if card.best else ""}" data-picture="{escape(card.picture)}" '
            f'data-folder="{escape(card.folder)}"><label>{image}<b><input type="checkbox"{" checked" if card.ticked else ""}> '
            f"{html.text(name)}{html.text(say(' (best)')) if card.best else ''}</b></label>{lines}{marks}</div>")
