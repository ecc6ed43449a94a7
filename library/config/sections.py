"""Flags -> the sections of RunConfig that need neither the model nor the data: one short function each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from library.config.keyvals import as_strings, as_values
from library.config.prompt_pairs import read_pairs
from library.config.run_config import (
    CacheConfig,
    HubConfig,
    LogConfig,
    LoopConfig,
    LossConfig,
    MachineConfig,
    NetworkConfig,
    NoiseConfig,
    OptimizerConfig,
    SampleConfig,
    SaveConfig,
    ScheduleConfig,
    SliderOrder,
    TextSliderConfig,
    ValidationConfig,
)
from library.flags import Flags
from library.util.records import Problem
from library.util.said import say

ATTENTION = {"torch": "sdpa", "sdpa": "sdpa", "xformers": "xformers", "flash": "flash", "sageattn": "sdpa"}
PRECISIONS = {None: None, "float": "fp32", "fp16": "fp16", "bf16": "bf16"}
DEEPSPEED = (
    "zero_stage",
    "offload_optimizer_device",
    "offload_optimizer_nvme_path",
    "offload_param_device",
    "offload_param_nvme_path",
    "zero3_init_flag",
    "zero3_save_16bit_model",
    "fp16_master_weights_and_gradients",
)
CARD = (
    "title",
    "author",
    "description",
    "license",
    "tags",
    "usage_hint",
    "thumbnail",
    "merged_from",
    "trigger_phrase",
    "preprocessor",
    "is_negative_embedding",
)
DEFAULT_MODULE = "networks.lora"


def _path(value: str | Path | None) -> Path | None:
    return Path(value) if value else None


def _some(value: Any) -> Any:
    """0 and "" as None, for settings in which they mean that a thing is not wanted."""
    return value or None


def caches_text(flags: Flags) -> bool:
    return bool(flags.maybe("cache_text_encoder_outputs") or flags.maybe("cache_text_encoder_outputs_to_disk"))


def network(flags: Flags, problems: list[Problem]) -> NetworkConfig:
    target = flags["slider_lora_target"]
    usual = "auto" if flags["prompts_file"] else None
    targets = {None: usual, "false": None, "true": "auto"}.get(target, target)
    weights = flags["base_weights"] or []
    multipliers = list(flags["base_weights_multiplier"] or [])
    return NetworkConfig(
        module=flags["network_module"] or DEFAULT_MODULE,
        dim=flags["network_dim"],
        alpha=flags["network_alpha"],
        dropout=_some(flags["network_dropout"]),
        args=as_strings("network_args", flags["network_args"], problems) | _rates_by_part(flags),
        weights=_path(flags["network_weights"]),
        dim_from_weights=flags["dim_from_weights"],
        assistant=lora_with_strength(flags["assistant_lora"]) if flags["assistant_lora"] else None,
        base_weights=tuple(Path(one) for one in weights),
        base_weights_multiplier=tuple((multipliers + [1.0] * len(weights))[: len(weights)]),
        train_denoiser=not flags["network_train_text_encoder_only"],
        train_text_encoder=not flags["network_train_unet_only"]
        and not caches_text(flags)
        and not flags["prompts_file"]
        and (not targets or _asks_for_text(flags)),
        scale_weight_norms=_some(flags["scale_weight_norms"]),
        targets=targets,
    )


def _rates_by_part(flags: Flags) -> dict[str, str]:
    """Learning rates of the model's parts as arguments of the network, which knows the layers' roles."""
    names = ("self_attn_lr", "cross_attn_lr", "mlp_lr", "mod_lr", "llm_adapter_lr")
    return {name: f"{rate:g}" for name in names if (rate := flags.maybe(name)) is not None}


def _asks_for_text(flags: Flags) -> bool:
    """Whether a slider run is to train text encoders: only where that was typed."""
    rates = flags["text_encoder_lr"] or []
    return flags["network_train_text_encoder_only"] or any(float(rate) > 0 for rate in rates)


def optimizer(flags: Flags, problems: list[Problem]) -> OptimizerConfig:
    old = "AdamW8bit" if flags["use_8bit_adam"] else "Lion" if flags["use_lion_optimizer"] else "AdamW"
    rates = flags["text_encoder_lr"]
    return OptimizerConfig(
        name=flags["optimizer_type"] or old,
        lr=flags["learning_rate"],
        unet_lr=flags["unet_lr"],
        text_encoder_lr=tuple(float(rate) for rate in rates) if rates else None,
        args=as_values("optimizer_args", flags["optimizer_args"], problems),
        max_grad_norm=flags["max_grad_norm"],
        ema_decay=_some(flags["ema_decay"]),
    )


def _steps(flags: Flags, name: str, problems: list[Problem]) -> int | float:
    """Steps as int, a part of all steps as a float below 1."""
    value = flags[name]
    if value >= 1 and float(value) != int(value):
        problems.append(
            Problem(
                f"--{name}",
                say("It is {value}: neither a number of steps nor a part of all steps.", value=value),
                "Write 100, 0.05 or 5%.",
                check="settings",
            )
        )
    return int(value) if value >= 1 or value == 0 else float(value)


def schedule(flags: Flags, problems: list[Problem]) -> ScheduleConfig:
    return ScheduleConfig(
        name=flags["lr_scheduler_type"] or flags["lr_scheduler"],
        warmup=_steps(flags, "lr_warmup_steps", problems),
        decay=_steps(flags, "lr_decay_steps", problems),
        num_cycles=flags["lr_scheduler_num_cycles"],
        power=flags["lr_scheduler_power"],
        timescale=flags["lr_scheduler_timescale"],
        min_lr_ratio=flags["lr_scheduler_min_lr_ratio"],
        args=as_values("lr_scheduler_args", flags["lr_scheduler_args"], problems),
        is_class=bool(flags["lr_scheduler_type"]),
    )


def loss(flags: Flags) -> LossConfig:
    return LossConfig(
        type=flags["loss_type"],
        huber_schedule=flags["huber_schedule"],
        huber_c=flags["huber_c"],
        huber_scale=flags["huber_scale"],
        min_snr_gamma=_some(flags["min_snr_gamma"]),
        debiased_estimation=flags["debiased_estimation_loss"],
        scale_v_pred_loss_like_noise_pred=flags["scale_v_pred_loss_like_noise_pred"],
        v_pred_like_loss=_some(flags["v_pred_like_loss"]),
        masked=flags["masked_loss"],
        prior_loss_weight=flags["prior_loss_weight"],
    )


def noise(flags: Flags) -> NoiseConfig:
    return NoiseConfig(
        offset=_some(flags["noise_offset"]),
        offset_random_strength=flags["noise_offset_random_strength"],
        adaptive_noise_scale=_some(flags["adaptive_noise_scale"]),
        multires_iterations=_some(flags["multires_noise_iterations"]),
        multires_discount=flags["multires_noise_discount"],
        ip_noise_gamma=_some(flags["ip_noise_gamma"]),
        ip_noise_gamma_random_strength=flags["ip_noise_gamma_random_strength"],
        zero_terminal_snr=flags["zero_terminal_snr"],
        min_timestep=flags["min_timestep"],
        max_timestep=_some(flags["max_timestep"]),
    )


def cache(flags: Flags) -> CacheConfig:
    return CacheConfig(
        latents=flags["cache_latents"] or flags["cache_latents_to_disk"],
        latents_to_disk=flags["cache_latents_to_disk"],
        skip_check=flags["skip_cache_check"],
        vae_batch_size=max(flags["vae_batch_size"] or 1, 1),
        text=caches_text(flags),
        text_to_disk=bool(flags.maybe("cache_text_encoder_outputs_to_disk")),
        text_batch_size=max(flags.maybe("text_encoder_batch_size") or 1, 1),
    )


def text_slider(flags: Flags, problems: list[Problem]) -> TextSliderConfig | None:
    """The prompts file, read; None without one or where it cannot be used."""
    if not flags["prompts_file"]:
        return None
    path = Path(flags["prompts_file"])
    words = [one.strip() for one in (flags["attributes"] or "").split(",") if one.strip()]
    reading = read_pairs(path, words)
    problems += reading.problems
    targets = {pair.target for pair in reading.pairs}
    return TextSliderConfig(
        file=path,
        pairs=tuple(reading.pairs),
        kept=tuple(dict.fromkeys((*reading.kept, *([] if "" in targets else [""])))),
        batch_size=flags["train_batch_size"] if flags.given("train_batch_size") else reading.batch_size,
        denoising_steps=max(2, flags["max_denoising_steps"]),
        guidance=flags["leco_denoise_guidance_scale"],
        states=flags["text_slider_states"],
        pool=max(1, flags["text_slider_pool"]),
    )


def slider_order(flags: Flags) -> SliderOrder:
    loss = _slider_loss(flags)
    # In the plain loss a change of the picture counts without bounds where there is little noise.
    goal = "pictures" if loss == "plain" else flags["slider_pair_goal"]
    return SliderOrder(neutral=flags["slider_neutral"], pairing=flags["slider_pairing"],
                       balance=flags["slider_balance"] == "true",
                       calibrate=flags["slider_calibrate"] == "true", loss=loss, pair_goal=goal)


def _slider_loss(flags: Flags) -> str:
    """Whoever weighs noise levels himself and says nothing of the slider's loss is not weighed upon."""
    weighed = flags["min_snr_gamma"] or flags["debiased_estimation_loss"]
    return "plain" if weighed and not flags.given("slider_loss") else flags["slider_loss"]


def loop(flags: Flags, seed: int) -> LoopConfig:
    return LoopConfig(
        max_train_steps=flags["max_train_steps"],
        max_train_epochs=_some(flags["max_train_epochs"]),
        gradient_accumulation_steps=flags["gradient_accumulation_steps"],
        seed=seed,
        initial_epoch=flags["initial_epoch"],
        initial_step=flags["initial_step"],
        resume=_some(flags["resume"]),
        resume_from_huggingface=flags["resume_from_huggingface"],
        kohya_order=flags["kohya_order"],
    )


def attention(flags: Flags) -> str:
    """kohya's order of precedence: --mem_eff_attn, --xformers, --sdpa; then the flags of single scripts."""
    if flags.maybe("attn_mode"):
        return ATTENTION[flags["attn_mode"]]
    if flags.maybe("use_flash_attn"):
        return "flash"
    return "xformers" if flags["xformers"] and not flags["mem_eff_attn"] else "sdpa"


def machine(flags: Flags) -> MachineConfig:
    swapped = flags.maybe("blocks_to_swap") or 0
    return MachineConfig(
        mixed_precision=flags["mixed_precision"],
        full_fp16=flags["full_fp16"],
        full_bf16=flags["full_bf16"],
        fp8_base=flags["fp8_base"],
        fp8_base_unet=flags["fp8_base_unet"],
        fp8_vl=bool(flags.maybe("fp8_vl")),
        no_half_vae=flags["no_half_vae"],
        attention=attention(flags),
        gradient_checkpointing=flags["gradient_checkpointing"] or flags["cpu_offload_checkpointing"] or swapped > 0,
        cpu_offload_checkpointing=flags["cpu_offload_checkpointing"],
        base_quantization=flags["base_quantization"] or ("fp8" if flags.maybe("fp8_scaled") else None),
        blocks_to_swap=swapped,
        lowram=flags["lowram"],
        torch_compile=flags["torch_compile"],
        dynamo_backend=flags["dynamo_backend"],
        ddp_timeout=_some(flags["ddp_timeout"]),
        deepspeed={name: flags[name] for name in DEEPSPEED} if flags["deepspeed"] else None,
    )


def save(flags: Flags) -> SaveConfig:
    every = (
        "every_n_steps",
        "every_n_epochs",
        "last_n_steps",
        "last_n_epochs",
        "last_n_steps_state",
        "last_n_epochs_state",
    )
    return SaveConfig(
        output_dir=Path(flags["output_dir"] or "."),
        output_name=flags["output_name"] or "last",
        model_as=flags["save_model_as"] or "safetensors",
        precision=PRECISIONS[flags["save_precision"]],
        format=flags["save_format"],
        n_epoch_ratio=_some(flags["save_n_epoch_ratio"]),
        state=flags["save_state"],
        state_on_train_end=flags["save_state_on_train_end"],
        no_metadata=flags["no_metadata"],
        training_comment=_some(flags["training_comment"]),
        modelspec={name: flags[f"metadata_{name}"] for name in CARD if flags[f"metadata_{name}"]},
        epoch_digits=flags["epoch_digits"],
        number_last=flags["number_last"],
        without_ema=flags["save_without_ema"],
        **{name: _some(flags[f"save_{name}"]) for name in every},
    )


def hub(flags: Flags) -> HubConfig | None:
    if not flags["huggingface_repo_id"]:
        return None
    return HubConfig(
        repo_id=flags["huggingface_repo_id"],
        repo_type=_some(flags["huggingface_repo_type"]),
        visibility=_some(flags["huggingface_repo_visibility"]),
        path_in_repo=_some(flags["huggingface_path_in_repo"]),
        save_state=flags["save_state_to_huggingface"],
        async_upload=flags["async_upload"],
    )


def sample(flags: Flags, problems: list[Problem]) -> SampleConfig:
    return SampleConfig(
        loras=tuple(lora_with_strength(one) for one in flags["sample_loras"] or ()),
        prompts=_path(flags["sample_prompts"]),
        every_n_steps=_some(flags["sample_every_n_steps"]),
        every_n_epochs=_some(flags["sample_every_n_epochs"]),
        at_first=flags["sample_at_first"],
        sampler=flags["sample_sampler"],
        strength=flags["sample_adapter_strength"],
        strengths=_strengths(flags["slider_sample_strengths"], problems),
    )


def _strengths(text: str | None, problems: list[Problem]) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in (text or "").replace(" ", ",").split(",") if word)
    except ValueError:
        problems.append(Problem("--slider_sample_strengths", say('"{text}" is no list of numbers.', text=text),
                                'Write --slider_sample_strengths="-1,-0.5,0,0.5,1".', check="settings"))
        return ()


def lora_with_strength(word: str) -> tuple[str, float]:
    """``a.safetensors=0.7`` as (file, strength); without a number behind the last ``=`` all of it is the file."""
    file, mark, strength = word.rpartition("=")
    try:
        return (file, float(strength)) if mark else (word, 1.0)
    except ValueError:
        return word, 1.0


def validation(flags: Flags) -> ValidationConfig:
    return ValidationConfig(
        every_n_steps=_some(flags["validate_every_n_steps"]),
        every_n_epochs=_some(flags["validate_every_n_epochs"]),
        max_steps=_some(flags["max_validation_steps"]),
        seed=flags["validation_seed"],
        patience=_some(flags["early_stopping_patience"]),
    )


def log(flags: Flags) -> LogConfig:
    return LogConfig(
        logging_dir=_path(flags["logging_dir"]),
        log_with=flags["log_with"] or ("tensorboard" if flags["logging_dir"] else None),
        log_prefix=_some(flags["log_prefix"]),
        tracker_name=_some(flags["log_tracker_name"]),
        tracker_config=_path(flags["log_tracker_config"]),
        wandb_run_name=_some(flags["wandb_run_name"]),
        log_config=flags["log_config"],
        console_level=flags["console_log_level"] or "INFO",
        console_file=_path(flags["console_log_file"]),
        console_simple=flags["console_log_simple"],
        diagnosis=not flags["no_diagnosis"],
    )
