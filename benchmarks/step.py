"""Seconds a step and peak memory of the trainer, beside the bare loop of bare_loop.py.

    python benchmarks/step.py MODEL                     # a full-size Stable Diffusion 1.5 in diffusers' layout
    python benchmarks/step.py MODEL --sides 64 --pairs 3 --no_memory

Time: one process trains with both, in turn. The trainer runs its real loop on real files; a watcher takes the time from
the end of one step to the end of the next and lets the bare loop take a step in between. What counts is the median of
the pairs' ratios: a machine that slows down for a while slows both. The same in seconds of processor time, summed over
threads, which other programs on the machine disturb less. Memory: a process of its own for each.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bare_loop
import measure

WARM_UP = 2
"""Pairs that are not counted: allocators and thread pools start."""


class Clock(NamedTuple):
    """Seconds on the wall and seconds of processor time."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Clock:
        return cls(time.perf_counter(), time.process_time())

    def since(self, before: Clock) -> Clock:
        return Clock(self.wall - before.wall, self.processor - before.processor)


class Turns:
    """A watcher that lets the bare loop take a step after each of the trainer's, and times both."""

    def __init__(self, base: type, bare_step: Callable[[], float]) -> None:
        self.ours: list[Clock] = []
        self.bare: list[Clock] = []
        self.bare_step = bare_step
        self.last = Clock.now()
        turns = self

        class Watching(base):
            def on_start(self, session: Any) -> None:
                turns.last = Clock.now()

            def on_step(self, session: Any, log: Any) -> None:
                turns.change()

        self.watcher = Watching()

    def change(self) -> None:
        now = Clock.now()
        self.ours.append(now.since(self.last))
        self.bare_step()
        self.last = Clock.now()
        self.bare.append(self.last.since(now))


def alternate(model: Path, side: int, pairs: int, folder: Path) -> tuple[list[Clock], list[Clock]]:
    """Train with both in turn: (seconds of our steps, seconds of the bare loop's), warm-up left out."""
    sys.path.insert(0, str(measure.ROOT))
    from library.train import run, stages
    from library.train.watchers import Idle

    turns = Turns(Idle, bare_loop.stepper(bare_loop.load(model), side, measure.CAPTIONS))
    makes = stages.watchers
    stages.watchers = lambda *given: (*makes(*given), turns.watcher)  # last, so that the others' time counts as ours
    args = measure.arguments(model, measure.pictures(folder, side), folder / f"out{side}", f"--resolution={side},{side}",
                             "--enable_bucket", "--min_bucket_reso=64", f"--max_train_steps={pairs + WARM_UP}")
    try:
        code = run.main(args)
    finally:
        stages.watchers = makes
    if code:
        raise SystemExit(code)
    return turns.ours[WARM_UP:], turns.bare[WARM_UP:]


def memory(model: Path, side: int, folder: Path) -> dict[str, float]:
    """GB: the weights' own bytes in fp32; then peaks of processes of their own: loaded by diffusers, bare loop, trainer."""
    bare = [sys.executable, str(measure.ROOT / "benchmarks" / "bare_loop.py"), str(model), f"--side={side}"]
    args = measure.arguments(model, measure.pictures(folder, side), folder / f"mem{side}", f"--resolution={side},{side}",
                             "--max_train_steps=3")
    commands = {"loaded alone": [*bare, "--steps=0"], "bare loop": [*bare, "--steps=3"],
                "trainer": measure.script_with_peak(measure.ROOT / "train_network.py", args)}
    told = {name: measure.run(command)[1] for name, command in commands.items()}
    weights = re.search(r"weights: ([\d.]+) GB", told["bare loop"])
    return {"weights": float(weights[1])} | {name: measure.peak(output) for name, output in told.items()}


def row(side: int, clock: str, ours: Sequence[float], bare: Sequence[float]) -> str:
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    mine, theirs = statistics.median(ours), statistics.median(bare)
    return (f"{side:4d} pixels  {clock}  trainer {mine:6.2f} s  bare loop {theirs:6.2f} s  "
            f"median ratio {statistics.median(ratios):.3f}  (pairs {' '.join(f'{r:.2f}' for r in ratios)})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a Stable Diffusion 1.5 in diffusers' layout")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128], help="pixels (default 64 128)")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of steps that count (default 7)")
    parser.add_argument("--no_memory", action="store_true", help="leave the memory out")
    parser.add_argument("--only_memory", action="store_true", help="leave the times out")
    asked = parser.parse_args()
    print(measure.machine())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        for side in asked.sides if not asked.no_memory else []:
            for who, figure in memory(asked.model.resolve(), side, Path(name)).items():
                print(f"{side:4d} pixels  {who:14s} {figure:6.2f} GB", flush=True)
        rows = []
        for side in asked.sides if not asked.only_memory else []:
            ours, bare = alternate(asked.model.resolve(), side, asked.pairs, Path(name))
            rows += [row(side, *columns) for columns in zip(("wall     ", "processor"), zip(*ours, strict=True),
                                                            zip(*bare, strict=True), strict=True)]
    print("\n".join(rows))


if __name__ == "__main__":
    main()
