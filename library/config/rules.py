"""Settings that contradict each other or make no sense, as a table: each rule is judged on the flags alone.

Rules see the flags after files and command line are merged. What needs the model, the pictures or the machine is judged
by the start-up checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from string import Formatter

from library.flags import Flags, flags_of
from library.flags.scripts import SAME_FLAGS
from library.util.records import Problem, Severity
from library.util.said import say


@dataclass(frozen=True)
class Rule:
    """``broken(flags)`` tells whether the rule is broken; the texts are formatted with the flags' values."""

    where: str
    broken: Callable[[Flags], bool]
    what: str
    remedy: str
    severity: Severity = "stop"


def _warm(flags: Flags) -> bool:
    return bool(flags["lr_warmup_steps"])


def _caches_text(flags: Flags) -> bool:
    return any(
        name in flags and flags[name] for name in ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")
    )


def _caches_latents(flags: Flags) -> bool:
    return flags["cache_latents"] or flags["cache_latents_to_disk"]


def _rates(flags: Flags) -> list[float]:
    return [rate for rate in (flags["text_encoder_lr"] or []) if rate]


RULES: tuple[Rule, ...] = (
    Rule(
        "--pretrained_model_name_or_path",
        lambda f: not f["pretrained_model_name_or_path"],
        "No base model is given.",
        "Name a file, a diffusers folder or a hub id, for example --pretrained_model_name_or_path=model.safetensors.",
    ),
    Rule(
        "--output_dir",
        lambda f: not f["output_dir"],
        "No output folder is given: the LoRA would have nowhere to go.",
        "Add --output_dir=lora_out.",
    ),
    Rule(
        "--train_data_dir",
        lambda f: not (f["train_data_dir"] or f["dataset_config"] or f["prompts_file"]) and f.script not in SAME_FLAGS,
        "No pictures are named.",
        "Give --train_data_dir=folder (the folder above the N_name folders) or --dataset_config=file.toml.",
    ),
    Rule(
        "--prompts_file",
        lambda f: f.script in SAME_FLAGS and not f["prompts_file"],
        "It names the texts of the slider, and none is given.",
        "Add --prompts_file=slider.toml; docs/sliders.md shows one.",
    ),
    Rule(
        "--network_train_text_encoder_only",
        lambda f: f["prompts_file"] and f["network_train_text_encoder_only"],
        "A text slider trains the denoiser alone.",
        "Leave it out.",
    ),
    Rule(
        "--max_train_epochs",
        lambda f: f["prompts_file"] and f["max_train_epochs"] and not (f["train_data_dir"] or f["dataset_config"]),
        "A text slider without pictures has no epochs.",
        "Give --max_train_steps=500 instead.",
    ),
    Rule(
        "--text_slider_states",
        lambda f: f["text_slider_states"] == "leco" and (f["train_data_dir"] or f["dataset_config"]),
        "leco denoises its own states; beside pictures, theirs are used.",
        "Leave it out, or leave the pictures out.",
    ),
    Rule(
        "--full_fp16",
        lambda f: f["full_fp16"] and f["mixed_precision"] != "fp16",
        "It needs --mixed_precision=fp16 (now {mixed_precision}).",
        "Add --mixed_precision=fp16, or leave --full_fp16 out.",
    ),
    Rule(
        "--full_bf16",
        lambda f: f["full_bf16"] and f["mixed_precision"] != "bf16",
        "It needs --mixed_precision=bf16 (now {mixed_precision}).",
        "Add --mixed_precision=bf16, or leave --full_bf16 out.",
    ),
    Rule(
        "--network_train_unet_only",
        lambda f: f["network_train_unet_only"] and f["network_train_text_encoder_only"],
        "It excludes --network_train_text_encoder_only: nothing would be trained.",
        "Keep one of the two, or neither to train both.",
    ),
    Rule(
        "--dim_from_weights",
        lambda f: f["dim_from_weights"] and not f["network_weights"],
        "It needs --network_weights, from which to take it.",
        "Add --network_weights=file.safetensors, or give --network_dim.",
    ),
    Rule(
        "--unet_lr",
        lambda f: f["unet_lr"] == 0 and (f["network_train_unet_only"] or (f["text_encoder_lr"] and not _rates(f))),
        "It is 0 and no text encoder is trained: nothing would be trained.",
        "Set --unet_lr=1e-4, or leave it out.",
    ),
    Rule(
        "--text_encoder_lr",
        lambda f: bool(f["text_encoder_lr"]) and not _rates(f) and f["network_train_text_encoder_only"],
        "It is 0 and nothing else is trained.",
        "Set --text_encoder_lr=5e-5, or leave it out.",
    ),
    Rule(
        "--lr_warmup_steps",
        lambda f: _warm(f) and not f["lr_scheduler_type"] and f["lr_scheduler"].lower() == "constant",
        "A warm-up ({lr_warmup_steps}) does not go with --lr_scheduler=constant.",
        "Use --lr_scheduler=constant_with_warmup, or no warm-up.",
    ),
    Rule(
        "--lr_warmup_steps",
        lambda f: _warm(f) and not f["lr_scheduler_type"] and f["lr_scheduler"].lower().startswith("adafactor"),
        "A warm-up ({lr_warmup_steps}) does not go with --lr_scheduler={lr_scheduler}.",
        "Leave the warm-up out: Adafactor warms up by itself.",
    ),
    Rule(
        "--optimizer_type",
        lambda f: f["use_8bit_adam"] and f["use_lion_optimizer"],
        "--use_8bit_adam and --use_lion_optimizer exclude each other.",
        "Keep one, or write --optimizer_type.",
    ),
    Rule(
        "--optimizer_type",
        lambda f: bool(f["optimizer_type"]) and f["use_8bit_adam"] and f["optimizer_type"].lower() != "adamw8bit",
        "{optimizer_type} contradicts --use_8bit_adam.",
        "Leave --use_8bit_adam out.",
    ),
    Rule(
        "--optimizer_type",
        lambda f: bool(f["optimizer_type"]) and f["use_lion_optimizer"] and f["optimizer_type"].lower() != "lion",
        "{optimizer_type} contradicts --use_lion_optimizer.",
        "Leave --use_lion_optimizer out.",
    ),
    Rule(
        "--adaptive_noise_scale",
        lambda f: f["adaptive_noise_scale"] is not None and f["noise_offset"] is None,
        "It needs --noise_offset.",
        "Add --noise_offset=0.05, or leave it out.",
    ),
    Rule(
        "--cache_latents",
        lambda f: _caches_latents(f) and f["color_aug"],
        "It cannot go with --color_aug, which changes the pictures each time.",
        "Remove one of the two.",
    ),
    Rule(
        "--cache_latents",
        lambda f: _caches_latents(f) and f["random_crop"],
        "It cannot go with --random_crop, which changes the pictures each time.",
        "Remove one of the two.",
    ),
    Rule(
        "--cache_text_encoder_outputs",
        lambda f: _caches_text(f) and not f["network_train_unet_only"] and bool(_rates(f)),
        "It leaves no text encoder to train, but --text_encoder_lr is {text_encoder_lr}.",
        "Add --network_train_unet_only, or leave the caching out to train it.",
    ),
    Rule(
        "--cache_text_encoder_outputs",
        lambda f: _caches_text(f) and not f["network_train_unet_only"] and not _rates(f),
        "It leaves no text encoder to train.",
        "--network_train_unet_only is taken as given; add it to say so.",
        "warn",
    ),
    Rule(
        "--zero_terminal_snr",
        lambda f: f["zero_terminal_snr"] and "v_parameterization" in f and not f["v_parameterization"],
        "Without --v_parameterization it teaches nothing at the noisiest step.",
        "It is meant for models that predict v.",
        "warn",
    ),
    Rule(
        "--min_timestep",
        lambda f: (f["min_timestep"] or 0) >= (f["max_timestep"] or 1000),
        "{min_timestep} is not below --max_timestep ({max_timestep}).",
        "Give a range within 0 and 1000.",
    ),
    Rule(
        "--min_bucket_reso",
        lambda f: (
            f["enable_bucket"]
            and f["min_bucket_reso"] > f["max_bucket_reso"]
            and not f["bucket_no_upscale"]
            and f.given("min_bucket_reso")
            and f.given("max_bucket_reso")
        ),
        "{min_bucket_reso} is larger than --max_bucket_reso ({max_bucket_reso}).",
        "Exchange them.",
    ),
    Rule(
        "--resume_from_huggingface",
        lambda f: f["resume_from_huggingface"] and not f["resume"],
        "It needs --resume, the state's place on the hub.",
        "Add --resume=user/repo/path.",
    ),
    Rule(
        "--save_state_to_huggingface",
        lambda f: f["save_state_to_huggingface"] and not f["huggingface_repo_id"],
        "It needs --huggingface_repo_id.",
        "Add --huggingface_repo_id=user/name.",
    ),
    Rule(
        "--save_state_to_huggingface",
        lambda f: f["save_state_to_huggingface"] and not (f["save_state"] or f["save_state_on_train_end"]),
        "It uploads states, and none is saved.",
        "Add --save_state.",
    ),
    Rule(
        "--sample_prompts",
        lambda f: (
            not f["sample_prompts"]
            and bool(f["sample_every_n_steps"] or f["sample_every_n_epochs"] or f["sample_at_first"])
        ),
        "It is not given, so no sample pictures are drawn.",
        "Name a file of prompts, one a line.",
        "warn",
    ),
    Rule(
        "--base_weights_multiplier",
        lambda f: len(f["base_weights_multiplier"] or []) > len(f["base_weights"] or []),
        "It has more entries than --base_weights.",
        "Give one for each file.",
    ),
    Rule(
        "--ema_decay",
        lambda f: f["ema_decay"] is not None and not 0 <= f["ema_decay"] < 1,
        "{ema_decay} makes no sense.",
        "Give a number below 1: 0.999 for long runs, 0.99 for short ones.",
    ),
    Rule(
        "--save_without_ema",
        lambda f: f["save_without_ema"] and not f["ema_decay"],
        "Without --ema_decay there is no average to leave out.",
        "Add --ema_decay=0.999, or leave it out.",
    ),
    Rule(
        "--initial_step",
        lambda f: f["initial_step"] is not None and not f["max_train_epochs"] and f["initial_step"] >= f["max_train_steps"],
        "{initial_step} is not below --max_train_steps ({max_train_steps}), which counts over the whole run.",
        "Give more steps, or begin earlier.",
    ),
    Rule(
        "--initial_epoch",
        lambda f: f["initial_epoch"] is not None and f["initial_step"] is not None,
        "It is left aside: --initial_step is given too.",
        "Keep one of them.",
        "note",
    ),
    Rule(
        "--dataset_config",
        lambda f: f["dataset_config"] and any(f[name] for name in ("train_data_dir", "reg_data_dir", "in_json")),
        "It describes the pictures, so --train_data_dir, --reg_data_dir and --in_json are left aside.",
        "Remove one or the other.",
        "warn",
    ),
    Rule(
        "--in_json",
        lambda f: f["in_json"] and not f["train_data_dir"] and not f["dataset_config"],
        "It needs --train_data_dir, where its pictures are.",
        "Add --train_data_dir=folder.",
    ),
    Rule(
        "--base_quantization",
        lambda f: bool(f["base_quantization"]) and (f["fp8_base"] or f["fp8_base_unet"]),
        "The model's weights are kept either in fp8 or in {base_quantization}.",
        "Remove --fp8_base (and --fp8_base_unet), or --base_quantization.",
    ),
    Rule(
        "--blocks_to_swap",
        lambda f: bool(f["blocks_to_swap"]) and f["torch_compile"],
        "Compiled blocks cannot leave the GPU: --torch_compile and --blocks_to_swap exclude each other.",
        "Remove one of the two; --blocks_to_swap where memory is short.",
    ),
)

POSITIVE = (
    "network_dim",
    "train_batch_size",
    "gradient_accumulation_steps",
    "max_train_steps",
    "max_train_epochs",
    "clip_skip",
    "vae_batch_size",
    "save_every_n_steps",
    "save_every_n_epochs",
    "save_n_epoch_ratio",
    "sample_every_n_steps",
    "sample_every_n_epochs",
    "validate_every_n_steps",
    "validate_every_n_epochs",
    "max_validation_steps",
    "epoch_digits",
    "token_warmup_min",
    "dataset_repeats",
    "initial_epoch",
    "lr_scheduler_num_cycles",
    "text_encoder_batch_size",
)
NOT_NEGATIVE = (
    "learning_rate",
    "unet_lr",
    "max_grad_norm",
    "max_data_loader_n_workers",
    "keep_tokens",
    "token_warmup_step",
    "lr_warmup_steps",
    "lr_decay_steps",
    "caption_dropout_every_n_epochs",
    "multires_noise_iterations",
    "min_timestep",
    "huber_c",
    "min_snr_gamma",
    "prior_loss_weight",
    "network_alpha",
    "initial_step",
    "seed",
    "early_stopping_patience",
    "blocks_to_swap",
)
PARTS = ("caption_dropout_rate", "caption_tag_dropout_rate", "validation_split", "network_dropout")
"""Settings between 0 and 1."""
ZERO_IS_OFF = (
    "save_every_n_steps",
    "save_every_n_epochs",
    "save_n_epoch_ratio",
    "sample_every_n_steps",
    "sample_every_n_epochs",
    "validate_every_n_steps",
    "validate_every_n_epochs",
    "max_validation_steps",
    "max_train_epochs",
    "clip_skip",
    "save_last_n_steps",
    "save_last_n_epochs",
    "save_last_n_steps_state",
    "save_last_n_epochs_state",
    "max_timestep",
    "scale_weight_norms",
    "network_dropout",
    "min_snr_gamma",
    "vae_batch_size",
    "text_encoder_batch_size",
    "multires_noise_iterations",
    "ip_noise_gamma",
    "keep_tokens",
    "ddp_timeout",
    "lr_scheduler_min_lr_ratio",
    "blocks_to_swap",
)
"""Settings in which 0, as front ends write it, means that the thing is not wanted."""


def judge(flags: Flags) -> Iterator[Problem]:
    """Every rule that is broken, every value out of its range and every flag that cannot be served as asked."""
    yield from _ranges(flags)
    for rule in RULES:
        if rule.broken(flags):
            yield Problem(rule.where, say(rule.what, **_shown(rule.what, flags)), rule.remedy, rule.severity, "settings")
    for name in flags.changed():
        served = flags_of(flags.script)[name].served
        if served.kind == "stops":
            yield Problem(f"--{name}", "It cannot be honoured here.", served.text, check="settings")
        elif served.kind == "otherwise":
            yield Problem(f"--{name}", say("It {text}", text=say(served.text)), "", "note", "settings")


def _shown(template: str, flags: Flags) -> dict[str, str]:
    """The values that a message names, as they may be shown."""
    names = [name for _, name, _, _ in Formatter().parse(template) if name]
    return {name: say("not given") if flags[name] is None else str(flags[name]) for name in names}


def _ranges(flags: Flags) -> Iterator[Problem]:
    for names, fits, words in (
        (POSITIVE, lambda v: v >= 1, "1 or more"),
        (NOT_NEGATIVE, lambda v: v >= 0, "0 or more"),
        (PARTS, lambda v: 0 <= v <= 1, "between 0 and 1"),
    ):
        for name in names:
            value = flags.maybe(name)
            if value is None or (value == 0 and name in ZERO_IS_OFF) or fits(value):
                continue
            yield Problem(f"--{name}", say("{value} makes no sense.", value=value), say("Give {words}.", words=say(words)),
                          check="settings")
    for rate in flags["text_encoder_lr"] or []:
        if rate < 0:
            yield Problem("--text_encoder_lr", say("{rate} makes no sense.", rate=rate), "Give 0 or more.", check="settings")
