"""``--prompts_file``: the texts of a slider, in the forms of kohya's LECO trainer, LECO, Concept Sliders and ai-toolkit.

- kohya's TOML: ``[[prompts]]`` (target, positive, unconditional, neutral, action) or ``[[targets]]`` (target_class, positive,
  negative); values above them are defaults.
- YAML (or JSON) of LECO and Concept Sliders: a list with the same words as ``[[prompts]]``.
- ai-toolkit: ``targets``, alone, under ``slider`` or in a whole job file.

``attributes`` puts words in front of every prompt, one after another ("male", "female"), so that the slider means the same on
all of them; ``{}`` in one marks where the prompt goes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from library.config.run_config import PromptPair
from library.config.toml_text import decode, read_settings
from library.util.near import near
from library.util.records import Problem, UserError
from library.util.said import say

FLAG = "--prompts_file"
ENDINGS = (".toml", ".yaml", ".yml", ".json")
NUMBERS = {"guidance_scale": 1.0, "multiplier": 1.0, "weight": 1.0}
COMMON = {"neutral", "resolution", "resolutions", "batch_size", "attributes", *NUMBERS}
UNUSED = {"dynamic_resolution": "pictures keep the size that resolution names", "dynamic_crops": "crops are not drawn",
          "shuffle": "prompts stay as written", "anchors": "texts to be kept stand under neutrals",
          "batch_full_slide": "both ends are trained in one step anyway", "use_adapter": "no depth adapter is used",
          "adapter_img_dir": "no depth adapter is used", "prompt_tensors": "texts are encoded anew",
          "low_ram": "texts are encoded once and kept in main memory anyway"}
OF_PROMPT = {"target", "positive", "unconditional", "action", *COMMON, *UNUSED}
OF_TARGET = {"target_class", "positive", "negative", "neutrals", "neutral_prompt_file", "prompt_file", *COMMON, *UNUSED}
ACTIONS = {"erase": -1.0, "enhance": 1.0}


@dataclass
class PairReading:
    """What a file gave, and everything noticed on the way."""

    path: Path
    pairs: list[PromptPair] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Texts at which the slider must change nothing."""
    batch_size: int = 1
    problems: list[Problem] = field(default_factory=list)

    def stop(self, place: str, what: str, remedy: str) -> None:
        where = f"{self.path.name}, {place}" if place else self.path.name
        self.problems.append(Problem(where, what, remedy, check="prompts_file"))

    def note(self, place: str, what: str) -> None:
        self.problems.append(Problem(f"{self.path.name}, {place}", what, "Remove it to be rid of this line.", "note",
                                     "prompts_file"))


def read_pairs(path: Path, attributes: Sequence[str] = ()) -> PairReading:
    """Read a prompts file; what is wrong with it is in ``problems``, nothing is raised."""
    reading = PairReading(path)
    try:
        data = _load(path)
    except UserError as error:
        reading.problems += error.problems
        return reading
    for place, table, defaults in _tables(data, reading):
        _read(place, table, defaults, reading)
    if not reading.pairs and not any(one.severity == "stop" for one in reading.problems):
        reading.stop("", "It holds no prompts.", "Write [[targets]] with positive and negative below it.")
    if attributes:
        reading.pairs = [one for pair in reading.pairs for one in _with_attributes(pair, attributes)]
    return reading


def _load(path: Path) -> Any:
    where = FLAG
    if path.suffix.lower() not in ENDINGS:
        raise UserError(Problem(where, say("{path} is no {endings:or} file.", path=path, endings=list(ENDINGS)),
                                "Write the prompts as TOML, as in docs/sliders.md.", check="prompts_file"))
    if not path.is_file():
        others = [one.name for one in path.parent.glob("*") if one.suffix.lower() in ENDINGS] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, others, 3, 0.4)
        raise UserError(Problem(where, say("There is no file {path}.", path=path), say("Near it there is {names:and}.", names=close)
                                if close else "Check the path; a relative one counts from the folder in which the command "
                                "runs.", check="prompts_file"))
    if path.suffix.lower() in (".toml", ".json"):
        if path.suffix.lower() == ".toml":
            return read_settings(path).data
        import json

        try:
            return json.loads(decode(path)[0])
        except ValueError as error:
            raise UserError(Problem(path.name, say("It is not JSON: {error}.", error=str(error)), "Mend that place.",
                                    check="prompts_file")) from error
    import yaml

    try:
        return yaml.safe_load(decode(path)[0])
    except yaml.YAMLError as error:
        raise UserError(Problem(path.name, say("It is not YAML: {error}.", error=" ".join(str(error).split())),
                                "Mend that place; indent with spaces.", check="prompts_file")) from error


Table = tuple[str, Any, Mapping[str, Any]]
"""(where it stands, the table, defaults from above)."""


def _tables(data: Any, reading: PairReading) -> Iterator[Table]:
    """The tables of a file in whichever of the known shapes."""
    if isinstance(data, list):
        yield from ((f"prompt {number}", one, {}) for number, one in enumerate(data, 1))
        return
    if not isinstance(data, Mapping):
        reading.stop("", "It holds neither a list of prompts nor targets.", "Write [[targets]] with positive and negative.")
        return
    data = _inner(data)
    names = [word for word in ("prompts", "targets") if word in data]
    if not names:
        if data:
            yield "the file", data, {}
        return
    defaults = {key: value for key, value in data.items() if key not in names}
    unknown = set(defaults) - OF_PROMPT - OF_TARGET
    for key in sorted(unknown):
        reading.stop(key, "There is no such setting.", near(key, sorted(OF_PROMPT | OF_TARGET)))
    for name in names:
        entries = data[name] if isinstance(data[name], list) else [data[name]]
        yield from ((f"{name} {number}", one, defaults) for number, one in enumerate(entries, 1))


def _inner(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that holds the targets: of a job file of ai-toolkit, of a [slider] table, or the file itself."""
    config = data.get("config")
    if isinstance(config, Mapping) and isinstance(config.get("process"), list):
        data = next((one for one in config["process"] if isinstance(one, Mapping) and "slider" in one), data)
    inner = data.get("slider")
    return inner if isinstance(inner, Mapping) else data


def _read(place: str, table: Any, defaults: Mapping[str, Any], reading: PairReading) -> None:
    if isinstance(table, str):
        reading.stop(place, say('"{text}" is a text, not a table.', text=table), "Write target: and positive: below one another.")
        return
    if not isinstance(table, Mapping):
        reading.stop(place, say("{value} is no table.", value=repr(table)), "Write positive = \"...\" and negative = \"...\".")
        return
    slider = "target" not in table
    known = OF_TARGET if slider else OF_PROMPT
    wrong = [key for key in table if key not in known]
    for key in wrong:
        reading.stop(f"{place}, {key}", "There is no such setting here.", near(str(key), sorted(known)))
    for key in sorted({*table, *defaults} & set(UNUSED)):
        if (table.get(key) if key in table else defaults.get(key)):
            reading.note(f"{place}, {key}", say("It is not used here: {why}", why=say(UNUSED[key])))
    values = {key: value for key, value in defaults.items() if key in known} | dict(table)
    numbers = _numbers(place, values, reading)
    if wrong or numbers is None:
        return
    make = _of_target if slider else _of_prompt
    pairs = list(make(place, values, numbers, reading))
    prefixes = _attributes(values.get("attributes"))
    reading.pairs += [one for pair in pairs for one in (_with_attributes(pair, prefixes) if prefixes else [pair])]


def _numbers(place: str, values: Mapping[str, Any], reading: PairReading) -> dict[str, float] | None:
    found = {}
    for key, default in {**NUMBERS, "batch_size": 1}.items():
        try:
            found[key] = float(values.get(key, default))
        except (TypeError, ValueError):
            reading.stop(f"{place}, {key}", say("{value} is no number.", value=repr(values[key])),
                         say("Write {key} = {number}.", key=key, number=f"{default:g}"))
            return None
    if found["weight"] < 0 or found["batch_size"] < 1 or found["multiplier"] == 0:
        reading.stop(place, "Weight is below 0, batch_size below 1, or multiplier is 0.", "1 is usual for all three.")
        return None
    reading.batch_size = max(reading.batch_size, int(found["batch_size"]))
    return found


def _of_prompt(place: str, values: Mapping[str, Any], numbers: Mapping[str, float], reading: PairReading) -> Iterator[PromptPair]:
    """LECO's form: at the positive end ``target`` is answered as neutral, less or plus (positive - unconditional)."""
    action = values.get("action", "erase")
    if action not in ACTIONS:
        reading.stop(f"{place}, action", say('"{action}" is neither erase nor enhance.', action=action),
                     "Write action = \"enhance\".")
        return
    target, unconditional = _text(values.get("target")), _text(values.get("unconditional"))
    positive = _text(values.get("positive")) if values.get("positive") is not None else target
    neutral = _text(values.get("neutral")) if values.get("neutral") is not None else unconditional
    if positive == unconditional:
        reading.stop(place, say('Positive and unconditional are both "{text}": there is no direction between them.', text=positive),
                     "Give two different texts.")
        return
    ends = (positive, unconditional) if ACTIONS[action] > 0 else (unconditional, positive)
    for size in _sizes(place, values, reading):
        yield PromptPair(target, *ends, neutral, numbers["guidance_scale"], abs(numbers["multiplier"]), numbers["weight"], size)


def _of_target(place: str, values: Mapping[str, Any], numbers: Mapping[str, float], reading: PairReading) -> Iterator[PromptPair]:
    """A slider between two texts: half of their difference to either side, so that the ends are the texts themselves."""
    target, positive, negative = (_text(values.get(key)) for key in ("target_class", "positive", "negative"))
    if not positive and not negative:
        reading.stop(place, "It has neither positive nor negative.", "Give the two texts between which the slider moves.")
        return
    if positive == negative:
        reading.stop(place, say('Positive and negative are both "{text}".', text=positive), "Give two different texts.")
        return
    half = 0.5 if positive and negative else 1.0
    reading.kept += [text for text in _kept(place, values, reading) if text != target]
    sign = 1.0 if numbers["multiplier"] > 0 else -1.0
    ends = (positive, negative or target) if positive else (target, negative)
    for size in _sizes(place, values, reading):
        yield PromptPair(target, *ends, target, sign * half * numbers["guidance_scale"], abs(numbers["multiplier"]),
                         numbers["weight"], size)


def _kept(place: str, values: Mapping[str, Any], reading: PairReading) -> list[str]:
    """Neutral texts: of the list, of a file beside this one, or the single one."""
    found = [_text(one) for one in values.get("neutrals") or []]
    for key in ("neutral_prompt_file", "prompt_file"):
        if values.get(key):
            file = reading.path.parent / str(values[key])
            if file.is_file():
                found += [line.strip() for line in decode(file)[0].splitlines() if line.strip()]
            else:
                reading.stop(f"{place}, {key}", say("There is no file {file}.", file=file),
                             "A relative path counts from the prompts file.")
    return found or ([_text(values["neutral"])] if values.get("neutral") else [])


def _sizes(place: str, values: Mapping[str, Any], reading: PairReading) -> list[tuple[int, int] | None]:
    """Sizes as (width, height): kohya's TOML writes [height, width], ai-toolkit's ``resolutions`` [width, height]."""
    upright = reading.path.suffix.lower() == ".toml" or "resolutions" not in values
    several = values.get("resolutions")
    given = several if isinstance(several, list) and several and isinstance(several[0], list) else [
        several if several is not None else values.get("resolution")]
    found: list[tuple[int, int] | None] = []
    for one in given:
        try:
            pair = one if isinstance(one, list) else [one, one]
            height, width = pair[:2] if upright else reversed(pair[:2])
            found.append(None if one is None else (int(width), int(height)))
        except (TypeError, ValueError, IndexError):
            reading.stop(f"{place}, resolution", say("{value} is no size.", value=repr(one)),
                         "Write resolution = 512, or [768, 512] (height, width).")
    return found


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _attributes(value: Any) -> list[str]:
    pieces = value.split(",") if isinstance(value, str) else value or []
    return [str(piece).strip() for piece in pieces if str(piece).strip()]


def _with_attributes(pair: PromptPair, attributes: Sequence[str]) -> Iterator[PromptPair]:
    for words in attributes:
        texts = {key: _joined(words, getattr(pair, key)) for key in ("target", "positive", "negative", "start")}
        yield replace(pair, **texts)


def _joined(words: str, prompt: str) -> str:
    if "{}" in words:
        return words.replace("{}", prompt).strip().strip(",").strip() if not prompt else words.replace("{}", prompt)
    return f"{words} {prompt}".strip()
