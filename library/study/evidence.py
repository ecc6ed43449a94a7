"""What is known of a finished file: its layers, what its run left beside it, and its base model and pictures, tried anew."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from library.config.resolve import Detected, resolve
from library.config.run_config import NoiseConfig, RunConfig
from library.config.toml_file import read_command
from library.data.plan import DatasetPlan, Item, ScanRules
from library.data.scan import scan
from library.families import detect, registry
from library.lorafile import examine, file as files
from library.lorafile.file import LoraFile
from library.sample.images import generate
from library.sample.loras import hang
from library.sample.prompts import PromptLine, read_prompts
from library.save import series
from library.study import trial
from library.study.copying import Pictured, copies
from library.study.diagnosis import Copied, Evidence, Setting
from library.study.drawing import Drawing, no_model
from library.study.likeness import latents
from library.study.material import opened
from library.util.records import Batch, Problem, UserError
from library.util.said import say
from library.util.tensorfile import read_metadata

DIAGNOSIS = "diagnosis.json"
"""Name of the verdict that a run writes into its report folder."""
TRIED = 16
"""Pictures of each kind that are tried."""
DRAWN = 8
"""Pictures that are drawn to look for copies."""
EARLIER = 2 / 3
"""Part of the run at which the file lies that growth is measured from."""


# --------------------------------------------------------------------------------------------------- beside the file


@dataclass(frozen=True)
class Beside:
    """What the run left beside its files (``NAME-report``); empty where there is none."""

    run: Mapping[str, Any] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    validation: tuple[tuple[int, float], ...] = ()


def beside(file: Path) -> Beside:
    """Read the report folder of the run that a file belongs to; that of a numbered file, too."""
    folders = [file.with_name(f"{stem}-report") for stem in dict.fromkeys((file.stem, series.parse(file)[0]))]
    folder = next((one for one in folders if (one / "run.json").is_file()), None)
    if folder is None:
        return Beside()
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    journal, told = folder / "log.jsonl", folder / DIAGNOSIS
    losses = tuple(json.loads(line)["loss"] for line in journal.read_text(encoding="utf-8").splitlines() if line.endswith("}")
                   ) if journal.is_file() else ()
    known = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {"validation": []}
    return Beside(run, losses, tuple((int(step), float(loss)) for step, loss in known["validation"]))


def command_of(run: Mapping[str, Any]) -> list[str]:
    """The flags that name model and pictures again, from a run's ``run.json``."""
    model, data = run["model"], run["data"]
    words: dict[str, Any] = {"pretrained_model_name_or_path": model["source"], "vae": model["vae"], "clip_skip": model["clip_skip"]}
    words |= {name: data[name] for name in ("train_data_dir", "reg_data_dir", "dataset_config")}
    if data["folder_mode"]:
        part, template = data["parts"][0], data["template"] or {}
        words |= {"resolution": ",".join(str(side) for side in part["resolution"]), "train_batch_size": part["batch_size"],
                  "min_bucket_reso": part["min_bucket_reso"], "max_bucket_reso": part["max_bucket_reso"],
                  "bucket_reso_steps": part["bucket_reso_steps"], "caption_extension": template.get("caption_extension"),
                  "keep_tokens": template.get("keep_tokens")}
    words["sample_prompts"] = run["sample"]["prompts"]
    switches = [f"--{name}" for name in ("v2", "v_parameterization") if model["options"].get(name)]
    switches += ["--enable_bucket"] if data["folder_mode"] and data["parts"][0]["enable_bucket"] else []
    return [f"--{name}={value}" for name, value in words.items() if value not in (None, "")] + switches


# ------------------------------------------------------------------------------------------------- model and pictures


@dataclass(frozen=True)
class Known:
    """The run's settings and its pictures."""

    config: RunConfig
    plan: DatasetPlan


def known(argv: Sequence[str]) -> Known:
    """Settings and pictures that a command line describes; UserError with everything that is wrong with them."""
    needed = ["--network_module=networks.lora", "--output_dir=.", "--output_name=unused", "--seed=0", "--max_train_steps=1"]
    typed = {word.partition("=")[0] for word in argv}
    more = [] if "--config_file" in typed else [word for word in needed if word.partition("=")[0] not in typed]
    config = resolve(read_command([*argv, *more]), _detected)
    spec = registry.get(config.model.family).SPEC
    plan = scan(config.data, ScanRules(spec.bucket_step, spec.cache_suffix, spec.text_cache_suffix, True, 0))
    if not any(not item.is_reg for item in plan.items):
        raise UserError(*(plan.problems or [Problem("--train_data_dir", "No training pictures were found.", "Check the path.")]))
    return Known(config, plan)


def _detected(source: str, flags: Any) -> Detected:
    found = detect.identify(source)
    if found.family is None:
        raise UserError(no_model(source, found))
    return Detected(found.family, dict(found.hints))


def batches(known: Known, drawing: Drawing, is_reg: bool, count: int) -> list[Batch]:
    """Pictures of the run, evenly taken, as the model sees them."""
    import torch

    found = []
    for indices in trial.chosen(known.plan, is_reg, count, drawing.options.pixels):
        items = [known.plan.items[index] for index in indices]
        width, height = items[0].placement.bucket
        seen = latents(drawing.family, drawing.parts, opened([item.path for item in items], (width, height)),
                       drawing.options.device)
        captions = [trial.caption_of(known.plan, index) for index in indices]
        found.append(Batch(captions, torch.ones(len(items)), [(height, width)] * len(items),
                           [(0, 0)] * len(items), (height, width), latents_BCHW=torch.stack(seen),
                           keys=[str(item.path) for item in items]))
    return found


def trigger_of(items: Sequence[Item]) -> str:
    """The tag that all captions of the training pictures begin with; none where they do not."""
    first = {item.caption.split(",")[0].strip() for item in items if not item.is_reg}
    return first.pop() if len(first) == 1 else ""


# -------------------------------------------------------------------------------------------------------------- trying


@dataclass
class Bench:
    """A loaded model with everything that files of one run are tried on; made once for all of them."""

    drawing: Drawing
    known: Known
    trained: list[Batch]
    others: list[Batch]
    others_are: str
    prompts: list[PromptLine]
    """What is drawn to look for copies: of one size, with seeds."""
    base: Pictured | None = None
    """What the base model draws of them."""


def bench(known: Known, drawing: Drawing, pictures: bool = True) -> Bench:
    """Encode pictures; where there are no regularisation pictures, the base model's own are drawn when they are needed."""
    trained = batches(known, drawing, False, TRIED)
    others = batches(known, drawing, True, TRIED)
    return Bench(drawing, known, trained, others,
                 say("the regularisation pictures") if others else say("the base model's own pictures"),
                 _prompts(known, trained) if pictures else [])


def _prompts(known: Known, trained: Sequence[Batch]) -> list[PromptLine]:
    """The run's sample prompts and its trigger alone, without a trigger its captions; in the size of the first pictures."""
    height, width = trained[0].target_size
    trigger = trigger_of(known.plan.items)
    file = known.config.sample.prompts
    lines = [line for line in (read_prompts(file) if file else []) if trigger in line.prompt]
    lines = [*lines, PromptLine(trigger)] if trigger else lines or [PromptLine(one) for one in dict.fromkeys(trained[0].captions)]
    chosen = [lines[number % len(lines)] for number in range(DRAWN)]
    return [replace(line, width=width, height=height, steps=20, sampler=None, adapter_strength=None, seed=100 + number)
            for number, line in enumerate(chosen)]


def tried(bench: Bench, file: Path) -> Evidence:
    """Hang a file on the model and measure."""
    drawing = bench.drawing
    schedule = drawing.family.schedule(drawing.parts.options, NoiseConfig())
    network = hang(drawing.family, drawing.parts, (file, 1.0), drawing.options.device)
    try:
        options = replace(drawing.options, schedule=schedule, modules=(network,))
        subject = trial.Tried(drawing.family, drawing.parts, network, options)
        if not bench.others:
            bench.others = trial.drawn_by_base(subject, bench.trained[0], TRIED)
        trained, others = trial.measure(subject, bench.trained), trial.measure(subject, bench.others)
        return Evidence(trained, others, bench.others_are, copies=_copies(bench, subject),
                        has_regularisation=any(item.is_reg for item in bench.known.plan.items))
    finally:
        network.remove()


def _copies(bench: Bench, subject: trial.Tried) -> list[Copied]:
    """Draw with and without the adapter, as its users will, and look for training pictures."""
    if not bench.prompts:
        return []
    size = bench.prompts[0].height, bench.prompts[0].width
    seen = [(Path(key).name, latent.float().cpu()) for batch in bench.trained if batch.target_size == size
            for key, latent in zip(batch.keys, batch.latents_BCHW, strict=True)]
    training = Pictured(*zip(*seen, strict=True))

    def pictured(strength: float) -> Pictured:
        subject.network.set_multiplier(strength)
        pictures = generate(subject.family, subject.parts, bench.prompts, replace(subject.options, schedule=None))
        return Pictured([line.prompt for line in bench.prompts],
                        latents(subject.family, subject.parts, pictures, subject.options.device))

    bench.base = bench.base or pictured(0.0)
    return copies(pictured(1.0), bench.base, training)


# ------------------------------------------------------------------------------------------------------------- the file


def of_layers(report: examine.Report) -> Evidence:
    """What the file's layers alone tell."""
    faults = report.faults
    return Evidence(not_numbers=sum(layer.fault == "nan" for layer in faults),
                    exploded=[layer.stem for layer in faults if layer.fault == "exploded"])


def times_seen(metadata: Mapping[str, str], items: Sequence[Item]) -> float | None:
    """How often the run had seen each training picture when the file was saved; None where its metadata do not say."""
    words = [metadata.get(name, "") for name in ("ss_steps", "ss_num_batches_per_epoch", "ss_gradient_accumulation_steps")]
    repeats = [item.repeats for item in items if not item.is_reg]
    if not (words[0].isdigit() and words[1].isdigit() and int(words[1]) and repeats):
        return None
    accumulation = int(words[2]) if words[2].isdigit() else 1
    return int(words[0]) * accumulation / int(words[1]) * statistics.mean(repeats)


def setting_of(metadata: Mapping[str, str]) -> Setting:
    """What a file's metadata tell of the run that made it."""
    def number(*names: str) -> float | None:
        for name in names:
            try:
                return float(metadata[name])
            except (KeyError, ValueError):
                continue
        return None

    steps = number("ss_steps")
    return Setting(number("ss_unet_lr", "ss_learning_rate"), number("ss_network_alpha"), None if steps is None else int(steps))


def earlier(file: Path) -> list[tuple[Path, int]]:
    """(file, steps) of the files of the same run that were saved before, in order; those whose metadata say their steps."""
    try:
        members = series.of_run(file)
    except UserError:
        return []
    steps = [(member.path, _steps(member.path)) for member in members]
    own = _steps(file)
    return [(path, count) for path, count in steps if 0 < count < own]


def _steps(file: Path) -> int:
    told = read_metadata(file).get("ss_steps", "")
    return int(told) if told.isdigit() else 0


def growth(file: LoraFile) -> dict[str, float]:
    """Block -> its norm over what it was by two thirds of the run; empty without a file saved by then."""
    before = [path for path, steps in earlier(file.path) if steps <= EARLIER * _steps(file.path)]
    if not before:
        return {}
    now, then = examine.examine(file).blocks, examine.examine(files.read(before[-1])).blocks
    return {block: norm / then[block] for block, norm in now.items() if then.get(block)}
