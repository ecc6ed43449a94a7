"""What a step optimises. An objective is a function (session, batch) -> parts of the step, each with its own loss.

One objective, one file. A batch says by its ``kind`` which of them it is for; a run's table has one for every kind, chosen
once from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from library.util.records import StepResult

from ..guide import Pool
from .denoise import denoise
from .neutral import Ends, anchored, at_full_strength
from .pair import changed, paired
from .scale import scale_free
from .text import as_leco, beside, from_pool

if TYPE_CHECKING:
    from library.config.run_config import RunConfig
    from library.data.plan import DatasetPlan

    from ..guide import Guide
    from ..session import Session

Objective = Callable[["Session", Any], Iterator[StepResult]]
Table = Mapping[str, Objective]
"""Kind of batch -> what it is trained for."""


def choose(config: RunConfig, plan: DatasetPlan, guide: Guide | None = None) -> Objective:
    """The objective of a run: for each batch the one that its kind has in the run's table; texts are trained beside pictures."""
    neutral = {"plain": at_full_strength, "anchor": partial(anchored, ends_of(plan)), "skip": at_full_strength}
    pair = {"change": changed, "pictures": paired}[config.data.slider.pair_goal]
    table: dict[str, Objective] = {"pictures": denoise, "pair": pair, "neutral": neutral[config.data.slider.neutral]}
    if guide is not None:
        texts: Objective = partial(beside, guide)
        table = {kind: both(objective, texts) for kind, objective in table.items()} | {"prompts": partial(from_pool, Pool(guide))}
    if config.data.slider.loss == "scale_free" and (plan.has_strengths or guide is not None):
        table = {kind: scale_free(objective) for kind, objective in table.items()}
    if guide is not None and guide.config.states == "leco":
        table["prompts"] = partial(as_leco, guide)
    return by_kind(table)


def both(first: Objective, second: Objective) -> Objective:
    """Two objectives of one batch, part after part."""

    def objective(session: Session, batch: Any) -> Iterator[StepResult]:
        yield from first(session, batch)
        yield from second(session, batch)

    return objective


def by_kind(table: Table) -> Objective:
    """One objective out of several: each batch goes to that of its kind."""

    def objective(session: Session, batch: Any) -> Iterator[StepResult]:
        return table[batch.kind](session, batch)

    return objective


def ends_of(plan: DatasetPlan) -> Ends:
    """The strongest positive and negative strength that pictures are trained at; +1 and -1 where a side has none."""
    strengths = [item.strength for item in plan.items if item.strength]
    return Ends(max([s for s in strengths if s > 0], default=1.0), min([s for s in strengths if s < 0], default=-1.0))
