"""Named slots of a caption (pose, emotion, ...): which tag belongs to which, sorting by them, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from library.config.toml_text import read_settings
from library.util.near import near
from library.util.records import Problem, UserError
from library.util.said import say

SLOTS: dict[str, tuple[str, ...]] = {
    "subject": ("?girl", "?boy", "?girls", "?boys", "1other", "solo", "multiple *", "no humans", "man", "woman", "animal*"),
    "pose": ("standing*", "sitting*", "lying*", "kneeling*", "squatting", "walking", "running", "jumping*", "leaning*", "crouching",
             "arm up", "arms up", "arms behind *", "arms at sides", "crossed arms", "crossed legs", "hand on *", "hands on *",
             "hand up", "hands up", "outstretched *", "head tilt", "looking *", "all fours", "stretch*", "dancing", "*pose*",
             "spread *"),
    "emotion": ("smile", "*smile", "grin", "smirk", "laughing", "happy", "sad", "angry", "crying", "tears", "blush", "frown",
                "surprised", "scared", "serious", "expressionless", "embarrassed", "pout", "closed eyes", "one eye closed",
                "open mouth", "closed mouth", "clenched teeth", "tongue out", "*expression*", ":d", ":o", ":3", ";d", "^_^", "^ ^"),
    "composition": ("portrait", "upper body", "lower body", "full body", "cowboy shot", "close-up", "*shot", "from *", "profile",
                    "*view", "dutch angle", "perspective", "facing *", "fisheye", "centered", "out of frame", "cropped *"),
    "hair": ("* hair", "*hair", "ponytail", "twintails", "*braid*", "bangs", "* bangs", "ahoge", "bob cut", "hime cut", "sidelocks",
             "*hair between eyes*"),
    "eyes": ("* eyes", "*pupils", "heterochromia", "eyelashes", "eyebrows"),
    "clothing": ("*dress*", "*shirt*", "*skirt*", "*pants*", "*shorts*", "*jacket*", "*coat*", "*uniform*", "*swimsuit*", "bikini*",
                 "*kimono*", "*sweater*", "*hoodie*", "*suit*", "*gloves*", "*socks*", "*thighhighs*", "*pantyhose*", "*shoes*",
                 "*boots*", "*hat*", "*cap", "*ribbon*", "*bow", "*scarf*", "*necktie*", "*sleeve*", "*collar*", "*apron*",
                 "*belt*", "*glasses*", "*earrings*", "*necklace*", "*choker*", "barefoot", "armor*", "*hair ornament*",
                 "*hairband*"),
    "object": ("holding *", "*weapon*", "*sword*", "*book*", "*bag*", "*phone*", "*umbrella*", "*flower*", "*food*",
               "*cup*", "*chair*", "*bed*", "*car", "*instrument*"),
    "background": ("*background*", "indoors", "outdoors", "sky", "* sky", "*cloud*", "*tree*", "*night*", "day", "*sunset*",
                   "*water*", "*beach*", "*city*", "*room*", "*window*", "*forest*", "*street*", "*grass*"),
    "style": ("monochrome", "greyscale", "sketch", "lineart", "line art", "watercolor*", "pixel art", "*style*", "chibi", "comic",
              "traditional media", "*realistic*", "flat color", "*(medium)", "photo*", "*drawing*", "*painting*"),
}
"""Slot -> patterns of its tags (``*`` any letters, ``?`` one), as taggers and photographers write them."""
ALIASES = {"object detail": "object", "objects": "object", "detail": "object", "face": "emotion", "expression": "emotion",
           "clothes": "clothing", "outfit": "clothing", "angle": "composition", "framing": "composition"}


@dataclass(frozen=True)
class Order:
    """Slots in the order in which their tags shall stand."""

    names: tuple[str, ...]
    patterns: tuple[tuple[str, ...], ...]

    def slot_of(self, tag: str) -> int | None:
        """Number of the slot that a tag belongs to: one that names it exactly, else the first with a pattern for it."""
        word = " ".join(tag.lower().replace("_", " ").split()) if not re.fullmatch(r"\W*_\W*", tag) else tag
        exact = [number for number, patterns in enumerate(self.patterns) if word in patterns]
        return next(iter(exact), None) if exact else next(
            (number for number, patterns in enumerate(self.patterns) if any(fnmatchcase(word, one) for one in patterns)), None)

    def sorted(self, tags: Sequence[str], keep: int = 0) -> list[str]:
        """Tags by slot, inside a slot as they stood; the first ``keep`` stay in front, tags of no slot go last."""
        last = len(self.names)
        numbers = [last if (slot := self.slot_of(tag)) is None else slot for tag in tags[keep:]]
        return [*tags[:keep], *(tag for _, tag in sorted(zip(numbers, tags[keep:], strict=True), key=lambda pair: pair[0]))]

    def missing(self, tags: Sequence[str]) -> list[str]:
        """Slots that no tag belongs to."""
        filled = {self.slot_of(tag) for tag in tags}
        return [name for number, name in enumerate(self.names) if number not in filled]

    def unplaced(self, tags: Sequence[str], keep: int = 0) -> list[str]:
        """Tags that belong to no slot."""
        return [tag for tag in tags[keep:] if self.slot_of(tag) is None]


def read_order(order: str, file: str | None = None) -> Order:
    """``"pose, emotion, composition"`` and, where a file gives them, the patterns of further or changed slots.

    The file is a .toml or .json of ``slot = ["tag", "pattern *"]``. Raises UserError for a slot that is nowhere described.
    """
    known: dict[str, tuple[str, ...]] = dict(SLOTS)
    if file is not None:
        known |= _read_slots(Path(file))
    names = [name for piece in order.split(",") if (name := " ".join(piece.lower().split()))]
    if not names:
        raise UserError(Problem("--order", "No slot is named.", 'Write for example --order "pose, emotion, composition".'))
    patterns = []
    for name in names:
        inside = known.get(name) or known.get(ALIASES.get(name, ""))
        if inside is None:
            raise UserError(
                Problem(
                    "--order",
                    say('Nothing says which tags belong to "{name}".', name=name),
                    say(
                        '{name} Or describe it in a --slots file: {name2} = ["tag", "pattern *"].',
                        name=near(name, known),
                        name2=name,
                    ),
                )
            )
        patterns.append(inside)
    return Order(tuple(names), tuple(patterns))


def _read_slots(path: Path) -> Mapping[str, tuple[str, ...]]:
    if not path.is_file():
        raise UserError(Problem("--slots", say("There is no file {path}.", path=path), "Check the path."))
    found = read_settings(path).data
    for name, tags in found.items():
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise UserError(
                Problem(
                    f"--slots {path.name}",
                    say("{name} is no list of tags.", name=name),
                    say('Write {name} = ["tag", "pattern *"].', name=name),
                )
            )
    return {" ".join(name.lower().split()): tuple(tag.lower() for tag in tags) for name, tags in found.items()}
