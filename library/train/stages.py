"""Stages 5 to 10 as functions: what ``run`` calls once everything is decided and checked. Here torch is imported."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from library.config.run_config import RunConfig, TextSliderConfig
from library.config.show import to_json
from library.config.toml_text import read_settings
from library.data import arithmetic
from library.data.loading import Feed, Pictures, Setting, Sources, StepPlan, check_lengths, step_plan
from library.data.order import sign_counts
from library.data.plan import DatasetPlan
from library.data.prompt_feed import PromptFeed, prompt_steps
from library.families.interface import Family, Parts
from library.report import trackers
from library.report.final_words import final_words
from library.sample.prompts import PromptLine, read_prompts
from library.save.hub import Uploader
from library.util import frame
from library.util.records import Cond, Problem
from library.util.said import say, spoken
from networks import registry as networks

from . import caching, calibration, facts, guide as guides, measuring, position, prepare, seeds, swapping
from .diagnosing import Diagnosing
from .guarding import Guarding, PaceMark, Watchdog
from .loop import Length, LoopTools, run_loop
from .objectives import choose as choose_objective
from .sampling import Sampling
from .saving import Saving
from .session import Session, decide_precision
from .telling import Telling
from .validation import EarlyStopping, Validation
from .watchers import Idle, Interrupt, Journal, ProgressLine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What stages 5 and 6 leave: the loaded model, where batches come from, how long the run is."""

    config: RunConfig
    accelerator: Any
    parts: Parts
    plan: DatasetPlan
    sources: Sources
    length: Length
    conds: dict[str, Cond]
    """Encoded texts of a slider that is learned from texts."""


def material(config: RunConfig, family: Family, plan: DatasetPlan) -> Material:
    """Stages 5 and 6: load the model, fill the caches, free what is no longer needed."""
    accelerator = prepare.open_accelerator(config)
    config = with_one_seed(config, accelerator)
    processes = accelerator.num_processes
    steps = step_plan(plan, config.loop, processes) if plan.parts else prompt_steps(config.loop, processes)
    check_lengths(steps)
    length = Length(steps.epochs, steps.steps, steps.batches, steps.accumulation, processes)
    announce(config.text, plan, steps)
    seeds.seed_everything(config.loop.seed)
    precision = decide_precision(config.machine, prepare.has_accelerator())
    with accelerator.local_main_process_first():  # a model that must be fetched is fetched once
        log.info(say("loading {model}", model=config.model.source))
        since = time.time()
        parts = prepare.load(config, family, accelerator.device, precision)
        log.info(say("model loaded in {seconds:.1f} s", seconds=time.time() - since))
    swapping.check(parts.denoiser, config.machine.blocks_to_swap)
    if config.loop.kohya_order:
        seeds.skip_uniform_draws(seeds.default_init_draws(parts.denoiser))
    prepare.merge_base(config, family, parts)
    conds = guides.encode(config, family, parts, accelerator)
    sources = caching.fill(config, family, plan, parts, caching.Place(accelerator, precision))
    return Material(config, accelerator, parts, plan, sources, length, conds)


def with_one_seed(config: RunConfig, accelerator: Any) -> RunConfig:
    """The same run with the main process's seed: each process has drawn one of its own where none was given."""
    if accelerator.num_processes == 1:
        return config
    from accelerate.utils import broadcast_object_list

    seed = broadcast_object_list([config.loop.seed])[0]
    return replace(config, loop=replace(config.loop, seed=seed))


def memory_in_use() -> int:
    """Bytes that torch holds on the GPU; 0 without one."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def announce(texts: TextSliderConfig | None, plan: DatasetPlan, steps: StepPlan) -> None:
    """The lines that people and front ends read before the first step; wording as kohya's."""
    for one in plan.subsets:
        what = say("regularization") if one.config.is_reg else say("train")
        log.info(say("{name}: {images} images, {repeats} repeats ({what})", name=one.name, images=one.images,
                     repeats=one.config.num_repeats, what=what))  # fmt: skip
    for part, (settings, rules) in enumerate(zip(plan.parts, plan.rules, strict=True)):
        if rules.enabled:
            table = ", ".join(f"{width}x{height}: {count}" for (width, height), count in plan.bucket_counts(part))
            log.info(say("buckets at batch size {size}: {table}", size=settings.batch_size, table=table))
    if texts is not None:
        log.info(say("{file}: {count} pairs of texts", file=texts.file.name, count=len(texts.pairs)))
    log.info(say("num train images * repeats: {count}", count=plan.images()))
    log.info(say("num reg images: {count}", count=sum(plan.reg_images(part) for part in range(len(plan.parts)))))
    log.info(say("num batches per epoch: {count}", count=steps.batches))
    if plan.has_strengths:
        counts = sign_counts(plan)
        if plan.partners:
            log.info(say("slider: {pairs} batches of pairs / {neutral} neutral batches an epoch", pairs=counts["positive"],
                         neutral=counts["neutral"]))
        else:
            log.info(say("slider: pos {positive} / neg {negative} / neutral {neutral} batches an epoch", **counts))
    log.info(say("num epochs: {count}", count=steps.epochs))
    log.info(say("gradient accumulation steps: {count}", count=steps.accumulation))
    log.info(say("total optimization steps: {count}", count=steps.steps))
    if plan.parts:
        for line in arithmetic.in_words(arithmetic.of_plan(plan, steps)):
            log.info(line)


def session(made: Material, family: Family) -> tuple[Session, Any]:
    """Stages 7 and 8: hang the adapter on the model and make everything an object."""
    config = made.config
    if not config.loop.kohya_order:
        seeds.seed_everything(seeds.derive(config.loop.seed, "adapter"))
    prepare.set_attention(config, made.parts)
    network = prepare.attach(config, family, made.parts)
    return prepare.prepare(config, family, made.parts, network, made.accelerator, made.length)


def train(made: Material, family: Family, argv: list[str], told: list[Problem]) -> int:
    """Stages 7 to 10: the adapter, the loop, the files; prints the last words. ``told`` are the checks' warnings."""
    config = made.config
    here, optimizer = session(made, family)
    fingerprint = facts.fingerprint(config, made.length)
    notes = position.begin(here, fingerprint, made.length)
    if made.accelerator.is_main_process:
        frame.show(notes)
    guide = guides.build(here, made.conds, bool(made.plan.parts))
    model = facts.model_facts(config, family, made.parts)
    saving = Saving(config, facts.run_facts(config, model, made.plan, optimizer, made.length), fingerprint, made.length,
                    uploader(config) if made.accelerator.is_main_process else None, calibrate=calibrator(made, guide))
    telling = watch_and_tell(made, family, saving, argv)
    telling.report.warnings += [f"{one.where}: {one.what}" for one in told if one.severity == "warn"]
    tools = LoopTools(
        objective=choose_objective(config, made.plan, guide), seed_batch=seed_policy(config), length=made.length,
        watchers=watchers(made, saving, telling), max_grad_norm=config.optimizer.max_grad_norm,
        scale_weight_norms=config.network.scale_weight_norms)
    keep_config(config, telling.folder, made.accelerator.is_main_process)
    run_loop(here, feed(made), tools)
    if made.accelerator.is_main_process:
        print("\n".join(map(spoken, final_words(telling.report))))
    return 0


def calibrator(made: Material, guide: guides.Guide | None) -> Callable[[Session], calibration.Response | None] | None:
    """What measures the finished slider; None for other runs, and for adapters whose file has no alpha that acts."""
    config, plan = made.config, made.plan
    if not (config.data.slider.calibrate and config.network.module in calibration.WITH_ALPHA):
        return None

    def by_pictures(session: Session) -> measuring.Sides | None:
        pictures = Pictures(plan, setting(config, made.length), made.sources)
        return measuring.from_pictures(session, Feed(pictures).epoch(0), prompts(), config.loop.seed)

    def by_texts(session: Session) -> measuring.Sides | None:
        assert guide is not None
        return measuring.from_texts(session, guide, prompts(), config.loop.seed)

    def prompts() -> list[PromptLine]:
        return read_prompts(config.sample.prompts) if config.sample.prompts else []

    if not plan.has_strengths and guide is None:
        return None
    sides_of = by_pictures if plan.has_strengths else by_texts

    def calibrate(session: Session) -> calibration.Response | None:
        sides = sides_of(session)
        return calibration.measure(session, sides) if sides is not None else None

    return calibrate


def seed_policy(config: RunConfig) -> seeds.SeedBatch:
    return seeds.running_stream if config.loop.kohya_order else seeds.derived_seeds(config.loop.seed)


def uploader(config: RunConfig) -> Uploader | None:
    """The hub's client, where files are to be uploaded; it finds the token in the environment."""
    if config.hub is None:
        return None
    made = Uploader(config.hub, os.environ.get("HF_TOKEN"))
    made.prepare()
    return made


def setting(config: RunConfig, length: Length) -> Setting:
    return Setting(seed=config.loop.seed, max_steps=length.steps, batches=length.batches,
                   batches_per_step=length.batches_per_step, prior_loss_weight=config.loss.prior_loss_weight,
                   masked=config.loss.masked or any(subset.alpha_mask for part in config.data.parts for subset in part.subsets),
                   upright=not config.loop.kohya_order)


def feed(made: Material) -> Feed | PromptFeed:
    """Batches for the loop: of pictures, or turns of a slider that is learned from texts alone."""
    config = made.config
    if not made.plan.parts:
        return PromptFeed(made.length.batches, made.accelerator.process_index, made.accelerator.num_processes)
    pictures = Pictures(made.plan, setting(config, made.length), made.sources)
    return Feed(pictures, made.accelerator.process_index, made.accelerator.num_processes, config.data.workers,
                torch.cuda.is_available())


def watch_and_tell(made: Material, family: Family, saving: Saving, argv: list[str]) -> Telling:
    """The watcher that keeps the run's record, with the trackers."""
    config = made.config
    sampling = Sampling(config, read_prompts(config.sample.prompts), saving) if config.sample.prompts else None
    start = trackers.Start(log=config.log, config=dict(facts.plain_settings(config)) if config.log.log_config else {},
                           when=time.localtime(), wandb_key=os.environ.get("WANDB_API_KEY"),
                           tracker_settings=read_settings(config.log.tracker_config).data if config.log.tracker_config else {})
    report = facts.report(config, family, made.plan, argv)
    return Telling(report, trackers.create(start, made.accelerator.is_main_process), saving, sampling, made.length,
                   config.save.output_dir / f"{config.save.output_name}-report",
                   networks.readers(config.network.module, family.SPEC.loads_in, config.save.format))


def watchers(made: Material, saving: Saving, telling: Telling) -> tuple[Idle, ...]:
    """Everything that happens around the steps, in the order in which it happens."""
    config = made.config
    guarding = Guarding(config.optimizer.unet_lr or config.optimizer.lr, saving, telling.report.warnings)
    watchdog = Watchdog()
    found: list[Idle] = [watchdog, guarding, ProgressLine(made.length.steps, made.length.epochs),
                         Journal(telling.folder / "log.jsonl"), saving]
    if telling.sampling is not None:
        found.append(telling.sampling)  # after saving: pictures take long, and nothing is lost where they are broken off
    last: list[Idle] = []
    if made.plan.validation:
        held_out = Pictures(made.plan.validation_plan(), setting(config, made.length), made.sources)
        seed = config.validation.seed if config.validation.seed is not None else config.loop.seed
        validation = Validation(config.validation, partial(Feed(held_out).epoch, 0),
                                choose_objective(config, made.plan), seed, telling.validated)
        found.append(validation)
        if config.validation.patience:
            last.append(EarlyStopping(validation, saving, config.validation.patience))
    if config.log.diagnosis and made.plan.parts and not made.plan.has_strengths:
        found.append(Diagnosing(Pictures(made.plan, setting(config, made.length), made.sources), made.length, telling))
    return (*found, telling, *last, Interrupt(), PaceMark(guarding, watchdog))


def keep_config(config: RunConfig, folder: Path, is_main: bool) -> None:
    """Write the resolved run beside its report."""
    if is_main:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(to_json(config), encoding="utf-8")
