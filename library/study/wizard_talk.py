"""The wizard's conversation: each question with its default, asked again until the answer can be taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from library.util.records import Problem, UserError
from library.util.said import in_language, say

from .wizard import DEFAULTS, Facts, look_at, read_answers, remarks, typed
from .wizard_questions import NONE_WORDS, QUESTIONS, Question, Wrong, bare, yes_no

MISSING = object()
"""No default: the question must be answered."""


class Talk(Protocol):
    """Who answers: a person at the keyboard or a file."""

    def show(self, text: str) -> None:
        """Give a line."""

    def answer(self, key: str, prompt: str, default: Any) -> str | None:
        """What is typed; None takes the default."""

    def complain(self, key: str, wrong: str, has_default: bool) -> None:
        """Say what is wrong before the question is asked again; UserError where nobody can be asked."""


@dataclass
class Keyboard:
    """A person, in their language."""

    language: str
    print_line: Callable[[str], None]
    read_line: Callable[[str], str]
    """Shows a prompt and gives the line that is typed behind it; EOFError at the end of the input."""

    def show(self, text: str) -> None:
        self.print_line(in_language(text, self.language))

    def answer(self, key: str, prompt: str, default: Any) -> str | None:
        return self.read_line("\n" + in_language(prompt, self.language)).strip() or None

    def complain(self, key: str, wrong: str, has_default: bool) -> None:
        self.show(wrong)


@dataclass
class FromFile:
    """Answers from a file; what it leaves out takes the default. What is wrong in it is gathered."""

    name: str
    answers: Mapping[str, Any]
    language: str
    print_line: Callable[[str], None]
    problems: list[Problem] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    def show(self, text: str) -> None:
        self.print_line(in_language(text, self.language))

    def answer(self, key: str, prompt: str, default: Any) -> str | None:
        if key in self.answers and key not in self.refused:
            return typed(self.answers[key])
        if default is MISSING:
            if key not in self.refused:
                self._note(key, say("There is no answer to: {question}", question=prompt.splitlines()[0]))
            raise UserError(*self.problems)
        return None

    def complain(self, key: str, wrong: str, has_default: bool) -> None:
        self._note(key, wrong)
        self.refused.add(key)

    def _note(self, key: str, what: str) -> None:
        self.problems.append(Problem(f"{self.name}: {key}", what, "Mend the file, or leave --answers out and answer by hand."))


@dataclass(frozen=True)
class Ended:
    """What a conversation came to."""

    answers: dict[str, Any]
    facts: Facts


def converse(talk: Talk, facts: Facts, of_model: Callable[[str, Facts], Facts], loaded: Mapping[str, Any]) -> Ended:
    """Ask everything in order. ``of_model`` adds what a base model's name tells and raises ``Wrong`` where it is none.

    ``loaded`` are answers from a file; they stand in for the defaults.
    """
    answers: dict[str, Any] = {}
    loaded = dict(loaded)
    for number, question in enumerate(QUESTIONS, 1):
        if question.left_out(answers):
            answers[question.key] = None
            continue
        for line in remarks(question.key, answers, facts):
            talk.show(line)
        default = _default(question, answers, facts, loaded, talk)
        while True:
            value = _asked(talk, question, number, default)
            try:
                facts = _learned(question.key, value, facts, of_model)
                break
            except Wrong as wrong:
                talk.complain(question.key, wrong.sentence, False)
                default = None if question.optional else MISSING
        answers[question.key] = value
        if question.key == "load_json" and value:
            loaded |= read_answers(Path(value))
    return Ended(answers, facts)


def _learned(key: str, value: Any, facts: Facts, of_model: Callable[[str, Facts], Facts]) -> Facts:
    """The facts with what an answer tells of the model or the pictures."""
    if key == "pretrained_model_name_or_path":
        return of_model(value, facts)
    return replace(facts, pictures=look_at(Path(value))) if key == "train_data_dir" else facts


def _default(question: Question, answers: Mapping[str, Any], facts: Facts, loaded: Mapping[str, Any], talk: Talk) -> Any:
    """What Enter takes: a loaded answer that can be taken, else what fits the answers so far."""
    if question.key in loaded and question.key not in ("load_json", "save_json"):
        try:
            return read(question, typed(loaded[question.key]))
        except Wrong as wrong:
            talk.show(say("The loaded answer is left aside: {wrong}", wrong=wrong.sentence))
    make = DEFAULTS.get(question.key)
    return make(answers, facts) if make else None if question.optional else MISSING


def read(question: Question, text: str) -> Any:
    """The value of what was typed; None for "none" where that is an answer."""
    if question.optional and bare(text).lower() in ("", *NONE_WORDS):
        return None
    if not bare(text):
        raise Wrong(say("This needs an answer."))
    return question.read(text)


def _asked(talk: Talk, question: Question, number: int, default: Any) -> Any:
    """Ask until the answer can be read."""
    prompt = say("{number}/{count} {ask}\n    {why}\n    [{default}] > ", number=number, count=len(QUESTIONS),
                 ask=say(question.ask), why=say(question.why), default=_shown(default))
    while True:
        text = talk.answer(question.key, prompt, default)
        if text is None and default is not MISSING:
            return default
        try:
            return read(question, text or "")
        except Wrong as wrong:
            talk.complain(question.key, wrong.sentence, default is not MISSING)


def _shown(default: Any) -> str:
    if default is MISSING:
        return say("no default")
    words = {None: "none", True: "yes", False: "no"}
    return say(words[default]) if default is None or isinstance(default, bool) else typed(default)


def confirmed(talk: Talk, key: str, question: str) -> bool:
    """A yes-or-no question whose default is no."""
    prompt = say("{question} (yes/no)\n    [{default}] > ", question=question, default=say("no"))
    while True:
        text = talk.answer(key, prompt, False)
        if text is None:
            return False
        try:
            return yes_no(text)
        except Wrong as wrong:
            talk.complain(key, wrong.sentence, True)


def as_json(answers: Mapping[str, Any]) -> str:
    """The answers as a file that `--load` and the question for a file take."""
    kept = {key: value for key, value in answers.items() if key not in ("load_json", "save_json")}
    return json.dumps(kept, ensure_ascii=False, indent=1) + "\n"
