"""Checks of options that do not go together. Each rule stands in a table; nothing of the disk is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from library.preflight.registry import Context, check
from library.preflight.ruled import flags_of_run, judged as found_by_rules
from library.util.records import Problem

if TYPE_CHECKING:
    from library.config.run_config import ScheduleConfig
    from library.optim.schedules import ScheduleSettings


@dataclass(frozen=True)
class Needs:
    """One flag that is of no use unless ``met`` says so of the context."""

    flag: str
    met: Callable[[Context], Any]
    need: str
    """The words for what it needs, as one would type them."""


NEEDS = (
    Needs("noise_offset_random_strength", lambda c: c.flag("noise_offset"), "--noise_offset"),
    Needs("ip_noise_gamma_random_strength", lambda c: c.flag("ip_noise_gamma"), "--ip_noise_gamma"),
    Needs("save_last_n_steps", lambda c: c.flag("save_every_n_steps"), "--save_every_n_steps"),
    Needs("save_last_n_epochs", lambda c: c.flag("save_every_n_epochs"), "--save_every_n_epochs"),
    Needs(
        "save_last_n_steps_state",
        lambda c: c.flag("save_state") and c.flag("save_every_n_steps"),
        "--save_state --save_every_n_steps",
    ),
    Needs(
        "save_last_n_epochs_state",
        lambda c: c.flag("save_state") and c.flag("save_every_n_epochs"),
        "--save_state --save_every_n_epochs",
    ),
    Needs(
        "validate_every_n_steps", lambda c: c.flag("validation_split") or c.flag("dataset_config"), "--validation_split"
    ),
    Needs(
        "validate_every_n_epochs",
        lambda c: c.flag("validation_split") or c.flag("dataset_config"),
        "--validation_split",
    ),
    Needs("bucket_no_upscale", lambda c: c.flag("enable_bucket") or c.flag("dataset_config"), "--enable_bucket"),
    Needs("cpu_offload_checkpointing", lambda c: c.flag("gradient_checkpointing"), "--gradient_checkpointing"),
)


@check("no_effect", level="words", row="F69")
def check_needs(context: Context) -> Iterator[Problem]:
    """Options that do nothing without another one."""
    for rule in NEEDS:
        if context.flag(rule.flag) and not rule.met(context):
            yield context.warn("no_effect", f"--{rule.flag}", flag=rule.flag, need=rule.need)


@check("alpha_zero", level="words", row="F23")
def check_alpha_zero(context: Context) -> Iterator[Problem]:
    """An alpha of 0 counts as dim."""
    if context.flag("network_alpha") == 0:
        yield context.note("alpha_zero", "--network_alpha", dim=context.flag("network_dim"))


@check("warmup_none", level="words", row="F29")
def check_warmup_none(context: Context) -> Iterator[Problem]:
    """A schedule with a warm-up needs its length."""
    given = context.flag("lr_warmup_steps") or context.flag("lr_scheduler_type")
    if context.flag("lr_scheduler") == "constant_with_warmup" and not given:
        yield context.note("warmup_none", "--lr_scheduler")


def text_rates(context: Context) -> tuple[float, ...]:
    """The text encoders' own rates, () where none was given."""
    value = context.flag("text_encoder_lr")
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


@check("schedule_adafactor", level="words", row="F29")
def check_schedule_adafactor(context: Context) -> Iterator[Problem]:
    """The schedule "adafactor" belongs to the optimizer Adafactor with relative steps."""
    name = str(context.flag("lr_scheduler") or "")
    if name.split(":")[0].lower() == "adafactor" and str(context.flag("optimizer_type") or "").lower() != "adafactor":
        yield context.stop("schedule_adafactor", "--lr_scheduler", optimizer=context.flag("optimizer_type") or "AdamW")


@check("schedule_unknown", level="words", row="F29")
def check_schedule_name(context: Context) -> Iterator[Problem]:
    """The schedule and its arguments must exist."""
    from library.config.sections import schedule
    from library.optim.schedules import problems

    found = problems(schedule_settings(schedule(flags_of_run(context), []), int(context.flag("max_train_steps") or 1)))
    judged = any(p.check == "schedule_warmup" for p in found_by_rules(context))
    yield from (p for p in found if not (judged and p.where == "--lr_warmup_steps"))


def schedule_settings(schedule: ScheduleConfig, steps: int) -> ScheduleSettings:
    """The schedule's section as the optimizers' room wants it."""
    from library.optim.schedules import ScheduleSettings

    return ScheduleSettings(schedule.name, max(1, steps), schedule.warmup, schedule.decay, schedule.num_cycles,
                            schedule.power, schedule.timescale, schedule.min_lr_ratio, schedule.args,
                            is_class=schedule.is_class)  # fmt: skip


@check("optimizer_unknown", level="words", row="F82")
def check_optimizer_name(context: Context) -> Iterator[Problem]:
    """The optimizer's name must be one that exists."""
    from library.optim.optimizers import find
    from library.util.records import UserError

    try:
        find(optimizer_name(context))
    except UserError as error:
        yield from error.problems


def optimizer_name(context: Context) -> str:
    """The optimizer asked for, old spellings included; ``AdamW`` where none is."""
    if context.flag("optimizer_type"):
        return str(context.flag("optimizer_type"))
    return "AdamW8bit" if context.flag("use_8bit_adam") else "Lion" if context.flag("use_lion_optimizer") else "AdamW"


@check("optimizer_package", level="words", row="F82")
def check_optimizer_package(context: Context) -> Iterator[Problem]:
    """The optimizer's package must be installed."""
    from library.optim.optimizers import find
    from library.preflight.machine import normal
    from library.util.records import UserError

    name = optimizer_name(context)
    try:
        spec = find(name)
    except UserError:
        return  # the check of the name says it
    if spec.package and normal(spec.package) not in context.machine.packages:
        yield context.stop(
            "optimizer_package", "--optimizer_type", name=name, package=spec.package, python=context.machine.executable
        )


@check("log_with", level="words", row="F81")
def check_log_with(context: Context) -> Iterator[Problem]:
    """A logger needs its folder, its package and, for wandb, a key."""
    chosen = context.flag("log_with")
    machine = context.machine
    if chosen in ("tensorboard", "all") and not context.flag("logging_dir"):
        yield context.stop("log_with.folder", "--logging_dir", chosen=chosen)
    if chosen in ("wandb", "all"):
        if "wandb" not in machine.packages:
            yield context.stop("log_with.wandb", "--log_with", python=machine.executable)
        elif not (
            context.flag("wandb_api_key")
            or machine.env.get("WANDB_API_KEY")
            or _in_netrc(context, urlsplit(machine.env.get("WANDB_BASE_URL", "")).hostname or "api.wandb.ai")
            or machine.env.get("WANDB_MODE") in ("offline", "dryrun", "disabled")
        ):
            yield context.stop("log_with.key", "--log_with")


@check("tensorboard_missing", level="words", row="F36")
def check_tensorboard(context: Context) -> Iterator[Problem]:
    """The loss curve in TensorBoard's form needs its package."""
    wanted = context.flag("logging_dir") and context.flag("log_with") in (None, "tensorboard", "all")
    if wanted and "tensorboard" not in context.machine.packages:
        yield context.warn("tensorboard_missing", "--logging_dir", python=context.machine.executable)


@check("attention_twice", level="words", row="F03")
def check_attention(context: Context) -> Iterator[Problem]:
    """Only one kind of attention can be used."""
    given = [f"--{n}" for n in ("xformers", "sdpa", "mem_eff_attn") if context.flag(n)]
    if len(given) > 1:
        yield context.note("attention_twice", given[0], given=", ".join(given))


@check("length_twice", level="words", row="F63")
def check_length(context: Context) -> Iterator[Problem]:
    """Epochs win over steps."""
    if context.flag("max_train_epochs") and context.given("max_train_steps"):
        yield context.note(
            "length_twice", "--max_train_epochs", epochs=context.flag("max_train_epochs"), steps=context.flag("max_train_steps")
        )


@check("save_never", level="words", row="F63")
def check_saves(context: Context) -> Iterator[Problem]:
    """A saving interval beyond the end never saves in between."""
    every, steps = context.flag("save_every_n_steps"), context.flag("max_train_steps")
    if every and steps and not context.flag("max_train_epochs") and every > steps:
        yield context.note("save_never", "--save_every_n_steps", every=every, steps=steps)


def _in_netrc(context: Context, host: str) -> bool:
    for name in (".netrc", "_netrc"):
        path = context.machine.home / name
        if path.is_file() and host in path.read_text(encoding="utf-8", errors="replace"):
            return True
    return False
