"""Checks of options that do not go together. Each rule stands in a table; nothing of the disk is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from library.preflight.registry import Context, check
from library.preflight.words import size_of
from library.util.records import Problem, Severity

FIXED_SCHEDULES = ("constant", "adafactor")


@dataclass(frozen=True)
class Needs:
    """One flag that is of no use, or wrong, unless ``met`` says so of the context."""

    flag: str
    met: Callable[[Context], Any]
    need: str
    """The words for what it needs, as one would type them."""
    severity: Severity = "stop"


NEEDS = (
    Needs("full_fp16", lambda c: c.flag("mixed_precision") == "fp16", "--mixed_precision fp16"),
    Needs("full_bf16", lambda c: c.flag("mixed_precision") == "bf16", "--mixed_precision bf16"),
    Needs("adaptive_noise_scale", lambda c: c.flag("noise_offset"), "--noise_offset"),
    Needs("noise_offset_random_strength", lambda c: c.flag("noise_offset"), "--noise_offset", "warn"),
    Needs("ip_noise_gamma_random_strength", lambda c: c.flag("ip_noise_gamma"), "--ip_noise_gamma", "warn"),
    Needs("dim_from_weights", lambda c: c.flag("network_weights"), "--network_weights"),
    Needs("base_weights_multiplier", lambda c: c.flag("base_weights"), "--base_weights"),
    Needs("resume_from_huggingface", lambda c: c.flag("resume"), "--resume"),
    Needs("save_state_to_huggingface", lambda c: c.flag("huggingface_repo_id"), "--huggingface_repo_id"),
    Needs("save_last_n_steps", lambda c: c.flag("save_every_n_steps"), "--save_every_n_steps", "warn"),
    Needs("save_last_n_epochs", lambda c: c.flag("save_every_n_epochs"), "--save_every_n_epochs", "warn"),
    Needs(
        "save_last_n_steps_state",
        lambda c: c.flag("save_state") and c.flag("save_every_n_steps"),
        "--save_state --save_every_n_steps",
        "warn",
    ),
    Needs(
        "save_last_n_epochs_state",
        lambda c: c.flag("save_state") and c.flag("save_every_n_epochs"),
        "--save_state --save_every_n_epochs",
        "warn",
    ),
    Needs("sample_every_n_steps", lambda c: c.flag("sample_prompts"), "--sample_prompts", "warn"),
    Needs("sample_every_n_epochs", lambda c: c.flag("sample_prompts"), "--sample_prompts", "warn"),
    Needs("sample_at_first", lambda c: c.flag("sample_prompts"), "--sample_prompts", "warn"),
    Needs(
        "validate_every_n_steps", lambda c: c.flag("validation_split") or c.flag("dataset_config"), "--validation_split", "warn"
    ),
    Needs(
        "validate_every_n_epochs",
        lambda c: c.flag("validation_split") or c.flag("dataset_config"),
        "--validation_split",
        "warn",
    ),
    Needs("bucket_no_upscale", lambda c: c.flag("enable_bucket") or c.flag("dataset_config"), "--enable_bucket", "warn"),
    Needs("cpu_offload_checkpointing", lambda c: c.flag("gradient_checkpointing"), "--gradient_checkpointing", "warn"),
)


@check("option_needs", level="words", row="F69")
def check_needs(context: Context) -> Iterator[Problem]:
    """Options that mean nothing without another one."""
    for rule in NEEDS:
        if context.flag(rule.flag) and not rule.met(context):
            key = "option_needs" if rule.severity == "stop" else "option_needs.no_effect"
            yield context.problem(rule.severity, key, f"--{rule.flag}", flag=rule.flag, need=rule.need)


@check("both_only", level="words", row="F23")
def check_both_only(context: Context) -> Iterator[Problem]:
    """The two "only" flags exclude each other."""
    if context.flag("network_train_unet_only") and context.flag("network_train_text_encoder_only"):
        yield context.stop("both_only", "--network_train_unet_only")


@check("nothing_trained", level="words", row="F23")
def check_something_trained(context: Context) -> Iterator[Problem]:
    """With every learning rate at zero, or the one that counts, nothing would be trained."""
    base = context.flag("learning_rate")
    unet = base if context.flag("unet_lr") is None else context.flag("unet_lr")
    text = text_rates(context) or (base,)
    trains_unet = not context.flag("network_train_text_encoder_only") and unet != 0
    trains_text = not context.flag("network_train_unet_only") and any(rate != 0 for rate in text)
    if not trains_unet and not trains_text:
        yield context.stop(
            "nothing_trained",
            "--unet_lr" if unet == 0 else "--text_encoder_lr",
            unet=unet,
            text=", ".join(str(r) for r in text),
        )


def text_rates(context: Context) -> tuple[float, ...]:
    """The text encoders' own rates, () where none was given."""
    value = context.flag("text_encoder_lr")
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


@check("dim_zero", level="words", row="F23")
def check_dim(context: Context) -> Iterator[Problem]:
    """A rank below one trains nothing."""
    dim, alpha = context.flag("network_dim"), context.flag("network_alpha")
    if dim is not None and dim < 1:
        yield context.stop("dim_zero", "--network_dim", dim=dim)
    if alpha is not None and alpha < 0:
        yield context.stop("dim_zero.alpha", "--network_alpha", alpha=alpha)
    if alpha == 0:
        yield context.note("dim_zero.alpha_zero", "--network_alpha", dim=dim)


@check("bucket_range", level="words", row="F41")
def check_bucket_range(context: Context) -> Iterator[Problem]:
    """The training size must lie between the limits of the buckets, where these were chosen (resolve moves defaults)."""
    size = size_of(context.flag("resolution") or "")
    low, high = context.flag("min_bucket_reso"), context.flag("max_bucket_reso")
    if not context.flag("enable_bucket") or context.flag("dataset_config") or size is None or low is None or high is None:
        return
    if low > high:
        yield context.stop("bucket_range.crossed", "--min_bucket_reso", low=low, high=high)
    elif high < max(size) and context.given("max_bucket_reso"):
        yield context.stop("bucket_range.high", "--max_bucket_reso", size=f"{size[0]},{size[1]}", high=high, need=max(size))
    elif low > min(size) and context.given("min_bucket_reso"):
        yield context.stop("bucket_range.low", "--min_bucket_reso", size=f"{size[0]},{size[1]}", low=low, need=min(size))


@check("schedule_warmup", level="words", row="F29")
def check_schedule_warmup(context: Context) -> Iterator[Problem]:
    """A constant schedule has no warm-up."""
    name = str(context.flag("lr_scheduler") or "")
    warmup = context.flag("lr_warmup_steps")
    if name.split(":")[0] in FIXED_SCHEDULES and warmup and not context.flag("lr_scheduler_type"):
        yield context.stop("schedule_warmup", "--lr_warmup_steps", name=name, warmup=warmup)
    if name == "constant_with_warmup" and not warmup and not context.flag("lr_scheduler_type"):
        yield context.note("schedule_warmup.none", "--lr_scheduler")


@check("schedule_adafactor", level="words", row="F29")
def check_schedule_adafactor(context: Context) -> Iterator[Problem]:
    """The schedule "adafactor" belongs to the optimizer Adafactor with relative steps."""
    name = str(context.flag("lr_scheduler") or "")
    if name.split(":")[0].lower() == "adafactor" and str(context.flag("optimizer_type") or "").lower() != "adafactor":
        yield context.stop("schedule_adafactor", "--lr_scheduler", optimizer=context.flag("optimizer_type") or "AdamW")


@check("schedule_unknown", level="words", row="F29")
def check_schedule_name(context: Context) -> Iterator[Problem]:
    """The schedule's name must be one that exists."""
    from library.optim.schedules import names

    name = str(context.flag("lr_scheduler") or "constant").split(":")[0]
    known = list(names())
    if context.flag("lr_scheduler_type") or name in known or "." in name:
        return
    yield context.stop("schedule_unknown", "--lr_scheduler", name=name, near=_nearest(name, known), known=", ".join(known))


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


@check("optimizer_twice", level="words", row="F69")
def check_optimizer_twice(context: Context) -> Iterator[Problem]:
    """The old optimizer switches exclude each other and --optimizer_type."""
    given = [f"--{n}" for n in ("optimizer_type", "use_8bit_adam", "use_lion_optimizer") if context.flag(n)]
    if len(given) > 1:
        yield context.stop("optimizer_twice", given[0], given=", ".join(given))


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


@check("args_form", level="words", row="F68")
def check_args_form(context: Context) -> Iterator[Problem]:
    """Free arguments are name=value, without blanks around the sign."""
    for flag in ("network_args", "optimizer_args", "lr_scheduler_args"):
        words = context.flag(flag) or ()
        bad = [str(w) for w in words if "=" not in str(w) or not str(w).split("=")[0].strip()]
        if bad:
            yield context.stop("args_form", f"--{flag}", flag=flag, words=" ".join(bad))


@check("cached_text_shuffle", level="words", row="F35")
def check_cached_text(context: Context) -> Iterator[Problem]:
    """Captions whose encoding is kept must not change."""
    if not (context.flag("cache_text_encoder_outputs") or context.flag("cache_text_encoder_outputs_to_disk")):
        return
    changing = (
        "shuffle_caption",
        "caption_dropout_rate",
        "caption_tag_dropout_rate",
        "token_warmup_step",
        "enable_wildcard",
        "caption_dropout_every_n_epochs",
    )
    on = [f"--{name}" for name in changing if context.flag(name)]
    if on:
        yield context.stop("cached_text_shuffle", "--cache_text_encoder_outputs", on=", ".join(on))


@check("cached_text_training", level="words", row="F51")
def check_cached_text_training(context: Context) -> Iterator[Problem]:
    """A text encoder whose output is kept cannot be trained."""
    cached = context.flag("cache_text_encoder_outputs") or context.flag("cache_text_encoder_outputs_to_disk")
    if cached and not context.flag("network_train_unet_only"):
        if context.flag("network_train_text_encoder_only") or any(rate != 0 for rate in text_rates(context)):
            yield context.stop("cached_text_training", "--cache_text_encoder_outputs")
        else:
            yield context.warn("cached_text_training.flag", "--cache_text_encoder_outputs")


@check("latents_random", level="words", row="F64")
def check_cached_latents(context: Context) -> Iterator[Problem]:
    """Pictures whose latents are kept must not change."""
    if not (context.flag("cache_latents") or context.flag("cache_latents_to_disk")):
        return
    on = [f"--{name}" for name in ("color_aug", "random_crop", "face_crop_aug_range") if context.flag(name)]
    if on:
        yield context.stop("latents_random", "--cache_latents", on=", ".join(on))


@check("timestep_range", level="words", row="F69")
def check_timesteps(context: Context) -> Iterator[Problem]:
    """The range of time steps must not be empty."""
    low, high = context.flag("min_timestep"), context.flag("max_timestep")
    if low is not None and high is not None and low >= high:
        yield context.stop("timestep_range", "--min_timestep", low=low, high=high)


@check("base_weights_count", level="words", row="F78")
def check_base_weights(context: Context) -> Iterator[Problem]:
    """There must not be more strengths than files."""
    files, strengths = context.flag("base_weights") or (), context.flag("base_weights_multiplier") or ()
    if files and len(strengths) > len(files):
        yield context.stop("base_weights_count", "--base_weights_multiplier", files=len(files), strengths=len(strengths))


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
    """Epochs win over steps; without either kohya's 1600 steps hold."""
    if context.flag("max_train_epochs") and context.given("max_train_steps"):
        yield context.note(
            "length_twice", "--max_train_epochs", epochs=context.flag("max_train_epochs"), steps=context.flag("max_train_steps")
        )
    elif not context.flag("max_train_epochs") and not context.given("max_train_steps"):
        yield context.note("length_twice.default", "--max_train_steps", steps=context.flag("max_train_steps"))


@check("save_never", level="words", row="F63")
def check_saves(context: Context) -> Iterator[Problem]:
    """A saving interval beyond the end never saves in between."""
    every, steps = context.flag("save_every_n_steps"), context.flag("max_train_steps")
    if every and steps and not context.flag("max_train_epochs") and every > steps:
        yield context.note("save_never", "--save_every_n_steps", every=every, steps=steps)


@check("clip_skip_range", level="words", row="F69")
def check_clip_skip(context: Context) -> Iterator[Problem]:
    """The text encoder has only so many layers to skip."""
    value = context.flag("clip_skip")
    if value and not 1 <= value <= 12:
        yield context.stop("clip_skip_range", "--clip_skip", value=value)


@check("rates_form", level="words", row="F69")
def check_rates(context: Context) -> Iterator[Problem]:
    """Chances lie between 0 and 1, counts are not negative."""
    for name in ("caption_dropout_rate", "caption_tag_dropout_rate", "network_dropout", "validation_split"):
        value = context.flag(name)
        if value is not None and not 0 <= float(value) <= 1:
            yield context.stop("rates_form", f"--{name}", value=value)
    for name in ("train_batch_size", "gradient_accumulation_steps", "vae_batch_size"):
        value = context.flag(name)
        if value is not None and value < (0 if name == "vae_batch_size" else 1):
            yield context.stop("rates_form.count", f"--{name}", value=value)


def _nearest(word: str, words: list[str]) -> str:
    import difflib

    found = difflib.get_close_matches(word.lower(), words, 1, 0.0)
    return found[0] if found else words[0]


def _in_netrc(context: Context, host: str) -> bool:
    for name in (".netrc", "_netrc"):
        path = context.machine.home / name
        if path.is_file() and host in path.read_text(encoding="utf-8", errors="replace"):
            return True
    return False
