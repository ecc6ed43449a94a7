"""Sentences for people: English where they are made, Japanese where they are shown, and nothing is left out on the way."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from library.config.data_reading import SENTENCES
from library.config.front_ends import FRONT_KEYS
from library.config.ranges import BOUNDS, USUAL
from library.config.rules import RULES
from library.families.weights import REMEDIES
from library.flags import SCRIPTS, flags_of
from library.flags.elsewhere import INSTEAD
from library.flags.flag import TYPE_WORDS
from library.preflight.texts import TEXTS
from library.util.frame import WORDS
from library.util.language import LANGUAGES
from library.util.said import Said, in_language, say, table

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("util", "flags", "config", "data", "optim", "preflight", "train", "save", "sample", "report",
         "families", "networks", "lorafile", "dataset", "study")
"""Rooms in which every sentence of a problem must stand in the tables of all languages."""
MAKERS = {"Problem", "note", "stop", "warn", "NotUnderstood", "refuse", "_complain", "_stop"}
"""Functions that take sentences."""
NAMES = {"accelerate", "alpha",
         "bf16", "dim", "xformers", "protobuf", "constant_with_warmup", "leco", "piecewise_constant", "wandb"}
"""Names that are written small at the beginning of a sentence, too."""


def constants(node: ast.AST) -> Iterator[str]:
    """Texts that an argument may be; of a conditional expression both."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*constants(node.body), *constants(node.orelse))
    elif isinstance(node, ast.BoolOp):
        yield from (text for value in node.values for text in constants(value))


def calls() -> Iterator[tuple[Path, ast.Call, str]]:
    rooms = [ROOT / ("" if room == "networks" else "library") / room for room in ROOMS]
    for file in (*sorted(path for room in rooms for path in room.rglob("*.py")), ROOT / "tools" / "doctor.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                yield file, node, node.func.id if isinstance(node.func, ast.Name) else node.func.attr


def sentences() -> set[str]:
    """Every sentence that these rooms can say: in tables of theirs, in ``say``, and directly in a problem."""
    found = {text for pair in TEXTS.values() for text in pair} | set(WORDS.values())
    found |= {text for pair in SENTENCES.values() for text in pair}
    found |= {*USUAL.values(), *(bounds for _, _, bounds in BOUNDS)}
    found |= {text for rule in RULES for text in (rule.what, rule.remedy)}
    found |= set(REMEDIES.values())
    found |= {*INSTEAD.values(), *TYPE_WORDS.values()}
    found |= {key.text.template if isinstance(key.text, Said) else key.text for key in FRONT_KEYS.values()}
    found |= {flag.served.text for script in SCRIPTS for flag in flags_of(script).values()}
    for file, call, name in calls():
        if name == "say" and call.args:
            found |= set(constants(call.args[0]))
        elif name in MAKERS and file.parent.name != "preflight":  # whose checks name a text by its key
            whole = [text for argument in call.args[1 if name != "NotUnderstood" else 0:] for text in constants(argument)]
            found |= {text for text in whole if " " in text}
        elif name == "ValueError" and file.name == "dataset_keys.py":
            found |= {text for argument in call.args for text in constants(argument)}
    return found - {""}


def fields(text: str) -> set[tuple[str, str]]:
    """Names of the values in a template; {} for a text that is none."""
    try:
        return {(name, how or "") for _, name, _, how in string.Formatter().parse(text) if name}
    except ValueError:
        return set()


@pytest.mark.parametrize("language", [one for one in LANGUAGES if one != "en"])
def test_every_sentence_stands_in_every_language(language: str) -> None:
    assert sorted(sentences() - set(table(language))) == []


@pytest.mark.parametrize("language", [one for one in LANGUAGES if one != "en"])
def test_a_sentence_has_the_same_values_in_every_language(language: str) -> None:
    assert [text for text, same in table(language).items() if fields(text) != fields(same)] == []


def test_a_problem_is_not_worded_with_a_formatted_string() -> None:
    made = [
        f"{file.name}:{call.lineno}"
        for file, call, name in calls()
        if name in MAKERS
        for argument in call.args[1 if name != "NotUnderstood" else 0:]
        if isinstance(argument, ast.JoinedStr) and any(" " in text for part in argument.values for text in constants(part))
    ]
    assert made == [], "write say(template, name=value): a formatted string has no other language"


def test_what_is_wrong_is_a_whole_sentence() -> None:
    whole = [pair[0] for pair in (*TEXTS.values(), *SENTENCES.values())] + [rule.what for rule in RULES]
    for _, call, name in calls():
        if name in MAKERS - {"NotUnderstood", "note", "stop", "warn"} and len(call.args) > 1:
            argument = call.args[1]
            said = isinstance(argument, ast.Call) and isinstance(argument.func, ast.Name) and argument.func.id == "say"
            whole += constants(argument.args[0] if said else argument)
    small = re.compile(r"[a-z]+ ")  # a first word that is no name (max_bucket_reso, {name}, torch.compile)
    assert [text for text in whole if small.match(text) and text.split()[0] not in NAMES] == []
    assert [text for text in whole if " " in text and text[-1] not in ".?!:}"] == []


def test_a_sentence_is_english_until_it_is_shown() -> None:
    inner = say("Did you mean {names:or}?", names=["a", "b", "c"])
    outer = say("{near} Possible: {known}.", near=inner, known=["x", "y"])
    assert outer == "Did you mean a, b or c? Possible: x, y."
    assert in_language(outer, "en") == outer
    assert in_language(outer, "ja") == "次のどれかではありませんか: a、b、c 指定できる値: x、y。"
    assert in_language("Remove one of the two.", "ja") != "Remove one of the two."
    assert in_language("no such sentence", "ja") == "no such sentence"


def test_one_is_singular() -> None:
    template = "{count:picture has|pictures have} none."
    assert [say(template, count=n) for n in (0, 1, 2)] == ["0 pictures have none.", "1 picture has none.", "2 pictures have none."]


def test_a_value_never_shows_a_token() -> None:
    token = "hf_" + "a1B2" * 9
    said = say("{one} {many}", one=f"x {token}", many=[token])
    assert "a1B2" not in said + in_language(said, "ja")
