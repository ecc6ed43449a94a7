"""One or more finished files, examined: layers, what the run left, and, where model and pictures are known, a trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from library.lorafile import examine, file as files
from library.study import diagnosis, evidence, remarks
from library.study.diagnosis import Evidence, Verdict
from library.study.drawing import Asked, open_model
from library.util.said import say

EARLIER = 4
"""Earlier files of a run that are tried for one that is better."""
BAD = ("damaged", "overtrained", "over-fitted")


@dataclass(frozen=True)
class Checked:
    """A file and what was found."""

    path: Path
    verdict: Verdict
    blocks: dict[str, float]
    """Block -> norm of the change."""
    growth: dict[str, float]
    remarks: tuple[str, ...] = ()
    better: str = ""
    """Another file of the run that is to be preferred, and why."""

    def lines(self) -> list[str]:
        """For the console."""
        found = [f"{self.path}", *self.verdict.lines()]
        found += [say("  better: {better}", better=self.better)] if self.better else []
        figures = ", ".join(f"{name} {value:.2f}" for name, value in self.verdict.figures.items())
        found += [say("  figures: {figures}", figures=figures)] if figures else []
        largest = sorted(self.blocks, key=lambda block: -self.blocks[block])[:4]
        grown = {block: say(" (x {growth:.2f} in the last third)", growth=self.growth[block])
                 for block in largest if block in self.growth}
        norms = [say("{block} {norm:.3g}{grown}", block=block, norm=self.blocks[block], grown=grown.get(block, ""))
                 for block in largest]
        return [*found, say("  norm by block: {norms}", norms=norms)]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        norms = {block: norm if math.isfinite(norm) else None for block, norm in self.blocks.items()}
        return {"file": str(self.path), **self.verdict.as_json(), "better": self.better, "norms": norms, "growth": self.growth,
                "remarks": list(self.remarks)}


@dataclass
class Checkup:
    """Examines files; a base model and its pictures are opened once for all files that share them."""

    argv: Sequence[str] = ()
    """Flags of training that name model and pictures; none: those of the run beside each file."""
    device: str | None = None
    pictures: bool = True
    tell: Callable[[str], None] = lambda line: None
    _benches: dict[tuple[str, ...], evidence.Bench | None] = field(default_factory=dict)

    def of(self, path: Path) -> Checked:
        """Everything about one file. UserError where it is no adapter or does not fit the model."""
        lora = files.read(path)
        report, left = examine.examine(lora), evidence.beside(path)
        layers = evidence.of_layers(report)
        bench = None if layers.not_numbers else self.bench(left)
        tried = evidence.tried(bench, path) if bench is not None else Evidence()
        growth = evidence.growth(lora)
        seen = None if bench is None else evidence.times_seen(lora.metadata, bench.known.plan.items)
        setting = evidence.setting_of(lora.metadata)
        until = len(left.losses) if setting.steps is None else setting.steps  # what came later is not this file's
        found = replace(tried, losses=left.losses[:until], validation=[one for one in left.validation if one[0] <= until],
                        not_numbers=layers.not_numbers, seen=seen, exploded=layers.exploded, growth=growth, setting=setting)
        verdict = diagnosis.judge(found)
        return Checked(path, verdict, report.blocks, growth, self.remarks(bench),
                       self.better(path, bench) if verdict.kind in BAD else "")

    def bench(self, left: evidence.Beside) -> evidence.Bench | None:
        """Model and pictures; None where nothing names them."""
        argv = tuple(self.argv or (evidence.command_of(left.run) if left.run else ()))
        if argv not in self._benches:
            self._benches[argv] = self._open(argv) if argv else None
        return self._benches[argv]

    def _open(self, argv: Sequence[str]) -> evidence.Bench:
        known = evidence.known(argv)
        model = known.config.model
        self.tell(say("loading {model} ...", model=model.source))
        values = model.options | {"clip_skip": model.clip_skip}
        drawing = open_model(Asked(model.source, values, model.vae, self.device))
        return evidence.bench(known, drawing, self.pictures)

    def remarks(self, bench: evidence.Bench | None) -> tuple[str, ...]:
        if bench is None:
            return ()
        items = bench.known.plan.items
        latents = list(bench.trained[0].latents_BCHW.cpu())
        return (*remarks.on_count(items), *remarks.on_tags(items), *remarks.on_latents(latents))

    def better(self, path: Path, bench: evidence.Bench | None) -> str:
        """The last earlier file of the run that is good; the last one without NaN where no model is known."""
        before = [file for file, _ in evidence.earlier(path)]
        for file in before[::-1][::max(1, len(before) // EARLIER)][:EARLIER]:
            if evidence.of_layers(examine.examine(files.read(file))).not_numbers:
                continue
            if bench is None:
                return say("{name}, the last without NaN", name=file.name)
            verdict = diagnosis.judge(evidence.tried(bench, file))
            if verdict.kind == "good":
                return say("{name} ({what})", name=file.name, what=verdict.findings[0].what)
        return ""


def on_data(checked: Sequence[Checked]) -> list[str]:
    """What pictures and tags make likely to go wrong, once where several files share them."""
    told = dict.fromkeys(words for one in checked for words in one.remarks)
    return [say("pictures and tags: {words}", words=words) for words in told]


def in_a_row(checked: Sequence[Checked]) -> list[str]:
    """Several files beside each other, and the one to take: the best price among the good, among all where none is."""
    good = [one for one in checked if one.verdict.kind == "good"]
    lines = [f"{'file':40} {'verdict':13} {'gain':>6} {'others':>7} {'best at':>7}"]
    names = [one.path.name for one in checked]
    names = names if len(set(names)) == len(names) else [f"{one.path.parent.name}/{one.path.name}" for one in checked]
    for one, name in zip(checked, names, strict=True):
        figures = one.verdict.figures
        cells = [f"{figures[key]:{width}.2f}" if key in figures else " " * width
                 for key, width in (("gain", 6), ("loss on others", 7), ("best strength", 7))]
        lines.append(f"{name:40} {one.verdict.kind:13} " + " ".join(cells))
    judged = [one for one in checked if one.verdict.kind != "damaged" and "gain" in one.verdict.figures]
    if judged:
        best = names[checked.index(max(good or judged, key=_worth))]
        lines.append(say("to take: {name}, which gains most for what it harms", name=best) if good else
                     say("none is good; first to try: {name}", name=best))
    return lines


def _worth(one: Checked) -> tuple[bool, float]:
    """What is known by heart comes last, then counts what is gained less what is harmed."""
    figures = one.verdict.figures
    return figures["loss in composition"] >= diagnosis.BY_HEART, figures["gain"] - max(0.0, figures.get("loss on others", 1.0) - 1)
