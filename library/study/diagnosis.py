"""What is wrong with a trained file, if anything, from figures alone: the verdict, the figures it rests on, what to do.

The figures are parts of the base model's own loss (``trial``), so they need no knowledge of the model:

* gain: how much less than the base's the loss on the training pictures is at strength 1;
* harm: how much more than the base's the loss on other pictures is; harm / gain is the price of what was learned;
* best strength: where the loss on the training pictures is least. A run that has settled has it at 1; one that was broken
  off early would have gone further in the same direction, above 1; one that overshot has it below.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from library.util.said import say, together

if TYPE_CHECKING:
    from library.study.trial import Curve

Kind = Literal["damaged", "overtrained", "over-fitted", "undertrained", "good", "not judged"]
KINDS: Mapping[Kind, str] = {
    "damaged": say("damaged"), "overtrained": say("overtrained"), "over-fitted": say("over-fitted"),
    "undertrained": say("undertrained"), "good": say("good"), "not judged": say("not judged")}
"""The verdicts as people read them."""

UNSETTLED = 1.2
"""Best strength from which a run counts as broken off early."""
OVERSHOT = 0.85
"""Best strength below which it has overshot."""
DEAR = 0.7
"""Harm / gain from which other pictures pay too much for what was learned."""
NOT_CHEAP = 0.4
"""Harm / gain from which even a good file is told how to do less harm."""
FAINT = 0.01
"""Gain below which the file does next to nothing on its own training pictures."""
LOSSES_RISE = 1.02
"""Last validation loss over the lowest, from which it counts as risen."""
BY_HEART = 0.15
"""Loss in composition below which training pictures are known by heart: so much noise leaves open what the caption leaves open."""
LOSS_ROSE, CERTAIN = 1.5, 5.0
"""Rise of the run's own loss from which it has gone wrong, and by how many standard errors it must have risen."""
COPY = 0.3
"""Distance of a drawn picture to a training picture, as a part of what training pictures have among themselves."""
MANY = 200
"""Times that a picture is seen in a run, from which repeats are worth a word where too much was learned."""


@dataclass(frozen=True)
class Setting:
    """What the run was told, for remedies in figures; None where it is not known."""

    rate: float | None = None
    """Of the U-Net or transformer."""
    alpha: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Copied:
    """A drawn picture and the training picture nearest to it."""

    prompt: str
    nearest: str
    distance: float
    """In parts of the median distance between a training picture and the one nearest to it."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a verdict may rest on; what was not looked at is empty."""

    trained: Curve | None = None
    """On training pictures."""
    others: Curve | None = None
    """On pictures that the file is not about."""
    others_are: str = ""
    """Which these are, in words."""
    losses: Sequence[float] = ()
    validation: Sequence[tuple[int, float]] = ()
    """(step, loss)."""
    not_numbers: int = 0
    """Layers of the file with values that are no numbers."""
    exploded: Sequence[str] = ()
    """Layers whose norm is far beyond the others'."""
    growth: Mapping[str, float] = field(default_factory=dict)
    """Block -> its norm over that of the file saved before, by two thirds of the run."""
    copies: Sequence[Copied] = ()
    setting: Setting = Setting()
    has_regularisation: bool | None = None
    seen: float | None = None
    """How often the run has seen each training picture."""


@dataclass(frozen=True)
class Finding:
    """One thing that was seen: which kind it speaks for, the words with the figures, what to do."""

    kind: Kind
    what: str
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The worst of what was found, and everything that was."""

    kind: Kind
    findings: tuple[Finding, ...]
    figures: Mapping[str, float]

    def lines(self) -> list[str]:
        """For the console and pages: the verdict with what it rests on, then what to do."""
        own = [one for one in self.findings if one.kind == self.kind]
        found = say("diagnosis: {kind}: {findings}", kind=KINDS[self.kind], findings=together([one.what for one in own]))
        remedies = list(dict.fromkeys(words for one in own for words in one.remedies))
        return [found, *(say("  try: {words}", words=words) for words in remedies)]

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {"verdict": self.kind, "figures": figures,
                "findings": [{"kind": one.kind, "what": one.what, "try": list(one.remedies)} for one in self.findings]}


def judge(evidence: Evidence) -> Verdict:
    """The verdict on what is known."""
    found = tuple(finding for rule in RULES for finding in [rule(evidence)] if finding is not None)
    figures = figures_of(evidence)
    if found:
        return Verdict(found[0].kind, found, figures)
    if evidence.trained is None:
        return Verdict("not judged", (Finding("not judged", say("base model and training pictures are not known"), (
            say("name them: --pretrained_model_name_or_path, --train_data_dir"),)),), figures)
    paid = evidence.others is not None and price(evidence.trained, evidence.others) >= NOT_CHEAP
    return Verdict("good", (Finding("good", _figures_in_words(evidence), _against_forgetting(evidence) if paid else ()),), figures)


def gain(curve: Curve) -> float:
    """How much less than the base's the loss is at strength 1."""
    return 1.0 - curve.at(1.0)


def price(trained: Curve, others: Curve) -> float:
    """Harm done to other pictures for what was gained on the training pictures; 0 where they gain, too."""
    harm = max(0.0, others.at(1.0) - 1.0)
    return harm / max(gain(trained), 1e-3)


def strength_to_try(trained: Curve, others: Curve | None) -> float:
    """The strength at which a file that does too much should be tried: where the gain exceeds the harm by most, in tenths."""
    weakest, strongest = 0.3, 1.0
    tenths = [round(weakest + 0.1 * number, 1) for number in range(round((strongest - weakest) / 0.1) + 1)]

    def worth(strength: float) -> float:
        harm = 0.0 if others is None else max(0.0, _between(others, strength) - 1.0)
        return 1.0 - _between(trained, strength) - harm

    return max(tenths, key=worth)


def _between(curve: Curve, strength: float) -> float:
    """The curve's loss at any strength: Lagrange's parabola through 0, 0.5 and 1."""
    x, (base, half, whole) = strength, curve.loss[:3]
    return base * (x - 0.5) * (x - 1) / 0.5 + half * x * (x - 1) / -0.25 + whole * x * (x - 0.5) / 0.5


def figures_of(evidence: Evidence) -> dict[str, float]:
    """The figures by name, for programs and tables."""
    found: dict[str, float] = {}
    if evidence.trained is not None:
        found |= {"gain": gain(evidence.trained), "best strength": evidence.trained.best_strength,
                  "loss in composition": evidence.trained.composition}
    if evidence.others is not None:
        found["loss on others"] = evidence.others.at(1.0)
    if evidence.trained is not None and evidence.others is not None:
        found["price"] = price(evidence.trained, evidence.others)
    if evidence.copies:
        found["nearest copy"] = min(one.distance for one in evidence.copies)
    if evidence.growth:
        found["growth"] = max(evidence.growth.values())
    return found


def _figures_in_words(evidence: Evidence) -> str:
    assert evidence.trained is not None
    words = [say("loss on the training pictures {loss:.2f} of the base model's, least at strength {best:.1f}",
                 loss=evidence.trained.at(1.0), best=evidence.trained.best_strength)]
    if evidence.others is not None:
        words.append(say("on {others} {loss:.2f}", others=evidence.others_are, loss=evidence.others.at(1.0)))
    return together(words)


# --------------------------------------------------------------------------------------------------------------- rules

FROM_BEFORE = say("an earlier file of the run; python tools/diagnose.py tells which")


def softer(setting: Setting) -> list[str]:
    """Settings that learn less wildly."""
    found: list[str] = [say("a third of the learning rate") if setting.rate is None else
                        say("a third of the learning rate ({less:.2g} in place of {rate:.2g})",
                            less=setting.rate / 3, rate=setting.rate)]
    if setting.alpha is None:
        found.append(say("the same rate with alpha 1"))
    elif setting.alpha > 1:
        found.append(say("the same rate with alpha 1 in place of {alpha:g}", alpha=setting.alpha))
    return found


def longer(setting: Setting) -> list[str]:
    """Settings that learn more."""
    return [say("twice as many steps") if setting.steps is None else
            say("{more} steps in place of {steps}", more=2 * setting.steps, steps=setting.steps),
            say("twice the learning rate") if setting.rate is None else
            say("learning rate {more:.2g} in place of {rate:.2g}", more=2 * setting.rate, rate=setting.rate)]


def risen(losses: Sequence[float]) -> float:
    """Mean loss of the last tenth of the steps over that of the lowest tenth; 1 where the rise may be chance."""
    losses = [loss for loss in losses if math.isfinite(loss)]
    size = len(losses) // 10
    if size < 2:
        return 1.0
    tenths = [losses[number * size:(number + 1) * size] for number in range(10)]
    lowest, last = min(tenths, key=statistics.fmean), tenths[-1]
    low, high = statistics.fmean(lowest), statistics.fmean(last)
    error = math.sqrt((statistics.variance(lowest) + statistics.variance(last)) / size)
    return high / low if low > 0 and high - low > CERTAIN * error else 1.0


def _damaged(evidence: Evidence) -> Finding | None:
    curves = [curve for curve in (evidence.trained, evidence.others) if curve is not None]
    remedies = (FROM_BEFORE, *softer(evidence.setting))
    if evidence.not_numbers:
        what = say("{count:layer holds|layers hold} values that are no numbers (NaN)", count=evidence.not_numbers)
        return Finding("damaged", what, remedies)
    if any(not math.isfinite(value) for curve in curves for value in curve.loss):
        return Finding("damaged", say("the model predicts values that are no numbers (NaN) with it"), remedies)
    if evidence.trained is not None and gain(evidence.trained) <= -FAINT:
        what = say("with it the model predicts even its training pictures worse than without (loss {loss:.2f} of the base "
                   "model's): the run diverged", loss=evidence.trained.at(1.0))
        return Finding("damaged", what, remedies)
    return None


def _overtrained(evidence: Evidence) -> Finding | None:
    trained, others = evidence.trained, evidence.others
    if trained is None:
        return None
    told = []
    if trained.best_strength < OVERSHOT:
        told.append(say("its own training pictures are predicted best at strength {best:.1f}, not at 1",
                        best=trained.best_strength))
    if others is not None and price(trained, others) >= DEAR:
        told.append(say("the loss on {others} is {harmed:.2f} of the base model's, on the training pictures {loss:.2f}",
                        others=evidence.others_are, harmed=others.at(1.0), loss=trained.at(1.0)))
    rise = risen(evidence.losses)
    if rise >= LOSS_ROSE:
        told.append(say("the loss of the run has risen to {rise:.1f} times what it was at its lowest", rise=rise))
    if evidence.exploded:
        told.append(say("{count:layer is|layers are} far larger than the others, such as {layer}",
                        count=len(evidence.exploded), layer=evidence.exploded[0]))
    if not told:
        return None
    weaker = say("strength {strength:.1f} at use", strength=strength_to_try(trained, others))
    return Finding("overtrained", together(told), (weaker, FROM_BEFORE, *softer(evidence.setting), *_data(evidence)))


def _against_forgetting(evidence: Evidence) -> tuple[str, ...]:
    words = say("regularisation pictures (--reg_data_dir), which keep what the model knew")
    return (words,) if evidence.has_regularisation is False else ()


def _data(evidence: Evidence) -> tuple[str, ...]:
    """Remedies that lie in the data."""
    found: list[str] = [*_against_forgetting(evidence)]
    if evidence.seen is not None and evidence.seen >= MANY:
        found.append(say("fewer repeats or epochs: every picture was seen {seen:.0f} times", seen=evidence.seen))
    return tuple(found)


def _over_fitted(evidence: Evidence) -> Finding | None:
    told: list[str] = []
    remedies: list[str] = []
    copied = [one for one in evidence.copies if one.distance < COPY]
    if copied:
        worst = min(copied, key=lambda one: one.distance)
        told.append(say('copies of training pictures among the {drawn} that were drawn: {count} ("{prompt}" of {nearest})',
                        count=len(copied), drawn=len(evidence.copies), prompt=worst.prompt, nearest=worst.nearest))
    if evidence.trained is not None and evidence.trained.composition < BY_HEART:
        told.append(say("it knows its training pictures by heart: out of nearly pure noise they are predicted with a loss of "
                        "{loss:.2f} of the base model's", loss=evidence.trained.composition))
    if told:
        remedies.append(say("more and more varied pictures"))
    lowest = lowest_validation(evidence.validation)
    if lowest is not None:
        step, rise = lowest
        told.append(say("the validation loss was lowest at step {step} and has risen by {rise:.0f} % since", step=step,
                        rise=100 * rise))
        remedies.append(say("the file saved nearest to step {step}", step=step))
    if not told:
        return None
    return Finding("over-fitted", together(told), (*remedies, say("alpha 1, which learns less by heart"), *_data(evidence)))


def lowest_validation(validation: Sequence[tuple[int, float]]) -> tuple[int, float] | None:
    """(step, rise since as a part) where the validation loss has clearly risen from its lowest point; None elsewhere."""
    if len(validation) < 3:
        return None
    step, least = min(validation, key=lambda one: one[1])
    rise = validation[-1][1] / least - 1 if least > 0 else 0.0
    return (step, rise) if rise >= LOSSES_RISE - 1 else None


def _undertrained(evidence: Evidence) -> Finding | None:
    trained = evidence.trained
    if trained is None:
        return None
    if gain(trained) < FAINT:
        what = say("it changes next to nothing: the loss on the training pictures is {loss:.2f} of the base model's",
                   loss=trained.at(1.0))
        return Finding("undertrained", what, tuple(longer(evidence.setting)))
    if trained.best_strength >= UNSETTLED:
        what = say("its training pictures are predicted best at strength {best:.1f}: it was still on its way (loss {loss:.2f} of "
                   "the base model's at 1, {further:.2f} at 1.5)", best=trained.best_strength, loss=trained.at(1.0),
                   further=trained.at(1.5))
        return Finding("undertrained", what, (*longer(evidence.setting), say("a higher strength for now (1.2 to 1.5)")))
    return None


RULES: tuple[Callable[[Evidence], Finding | None], ...] = (_damaged, _overtrained, _over_fitted, _undertrained)
"""In the order in which they decide."""
