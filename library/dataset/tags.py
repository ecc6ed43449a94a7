"""Captions as lists of tags, and what is done to them. Pure functions on lists of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from library.util.records import Problem, UserError
from library.util.said import say

TagsToTags = Callable[[list[str]], list[str]]


def parse(text: str, separator: str = ",") -> list[str]:
    """Tags of a caption, stripped; empty ones are dropped."""
    return [tag for piece in text.split(separator) if (tag := piece.strip())]


def unique(tags: Iterable[str]) -> list[str]:
    """Each tag once, where it stood first; case and underscores make no difference."""
    seen: dict[str, str] = {}
    for tag in tags:
        seen.setdefault(key(tag), tag)
    return list(seen.values())


def key(tag: str) -> str:
    """By what two spellings of a tag are the same: case, and ``_`` for a space (not in faces such as ``^_^``)."""
    word = tag.strip().lower()
    return " ".join(word.replace("_", " ").split()) if any(c.isalnum() for c in word) else word


def matches(tag: str, patterns: Sequence[str]) -> bool:
    """Whether one of some tags, or of their patterns with ``*``, means this tag."""
    word = key(tag)
    return any(word == key(one) or ("*" in one and fnmatchcase(word, key(one))) for one in patterns)


def in_front(words: Sequence[str]) -> TagsToTags:
    """Put the activation tags first, and nowhere else."""
    return lambda tags: [*words, *(tag for tag in tags if not matches(tag, words))]


def appended(words: Sequence[str]) -> TagsToTags:
    """Put tags last where they are not there yet."""
    return lambda tags: unique([*tags, *words])


def without(patterns: Sequence[str]) -> TagsToTags:
    """Take tags out."""
    return lambda tags: [tag for tag in tags if not matches(tag, patterns)]


def merged(sources: Sequence[str], target: str) -> TagsToTags:
    """Where any of the sources stands, write the target once, in the place of the first of them."""
    def change(tags: list[str]) -> list[str]:
        return unique(target if matches(tag, sources) else tag for tag in tags)
    return change


def by_frequency(counts: Mapping[str, int], keep: int = 0) -> TagsToTags:
    """Common tags before rare ones; equal ones as they stood. The first ``keep`` stay in front."""
    return lambda tags: [*tags[:keep], *sorted(tags[keep:], key=lambda tag: -counts.get(key(tag), 0))]


def read_rule(flag: str, text: str) -> tuple[list[str], str]:
    """``"striped shirt, vertical stripes -> striped shirt"`` -> (sources, target). Raises UserError."""
    left, arrow, right = text.partition("->")
    sources, target = parse(left), right.strip()
    if not arrow or not sources or not target or "," in target:
        raise UserError(Problem(flag, say('"{text}" cannot be read.', text=text), say('Write {flag} "a, b, c -> d".', flag=flag)))
    return sources, target


def frequencies(captions: Iterable[Sequence[str]]) -> Counter[str]:
    """In how many captions each tag stands."""
    counts: Counter[str] = Counter()
    for tags in captions:
        counts.update(list(dict.fromkeys(key(tag) for tag in tags)))  # in order: equally common ones keep it
    return counts
