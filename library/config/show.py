"""A resolved run as text for people and as JSON for programs; keys and tokens never stand in either."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from library.config.run_config import PromptPair, RunConfig
from library.flags import BY_NAME
from library.util.secrets import mask

TITLES = {
    "model": "Model",
    "network": "Network",
    "optimizer": "Optimizer",
    "schedule": "Schedule",
    "loss": "Loss",
    "noise": "Noise",
    "data": "Data",
    "text": "Texts of the slider",
    "cache": "Cache",
    "loop": "Length and seed",
    "machine": "Machine",
    "save": "Saving",
    "sample": "Samples",
    "validation": "Validation",
    "log": "Logging",
    "hub": "Upload",
}
FLAG_OF = {
    "model": {"source": "pretrained_model_name_or_path"},
    "network": {
        "module": "network_module",
        "dim": "network_dim",
        "alpha": "network_alpha",
        "dropout": "network_dropout",
        "args": "network_args",
        "weights": "network_weights",
        "targets": "slider_lora_target",
        "train_denoiser": "network_train_text_encoder_only",
        "train_text_encoder": "network_train_unet_only",
    },
    "optimizer": {"name": "optimizer_type", "lr": "learning_rate", "args": "optimizer_args"},
    "schedule": {
        "name": "lr_scheduler",
        "warmup": "lr_warmup_steps",
        "decay": "lr_decay_steps",
        "num_cycles": "lr_scheduler_num_cycles",
        "power": "lr_scheduler_power",
        "timescale": "lr_scheduler_timescale",
        "min_lr_ratio": "lr_scheduler_min_lr_ratio",
        "args": "lr_scheduler_args",
    },
    "loss": {"type": "loss_type", "debiased_estimation": "debiased_estimation_loss", "masked": "masked_loss"},
    "noise": {
        "offset": "noise_offset",
        "offset_random_strength": "noise_offset_random_strength",
        "multires_iterations": "multires_noise_iterations",
        "multires_discount": "multires_noise_discount",
    },
    "data": {
        "workers": "max_data_loader_n_workers",
        "allow_truncated": "allow_truncated_images",
        "batch_size": "train_batch_size",
    },
    "slider": {name: f"slider_{name}" for name in ("neutral", "pairing", "balance", "calibrate", "loss", "pair_goal")},
    "text": {
        "file": "prompts_file",
        "states": "text_slider_states",
        "pool": "text_slider_pool",
        "denoising_steps": "max_denoising_steps",
        "guidance": "leco_denoise_guidance_scale",
    },
    "cache": {
        "latents": "cache_latents",
        "latents_to_disk": "cache_latents_to_disk",
        "skip_check": "skip_cache_check",
        "text": "cache_text_encoder_outputs",
        "text_to_disk": "cache_text_encoder_outputs_to_disk",
        "text_batch_size": "text_encoder_batch_size",
    },
    "machine": {"attention": "xformers"},
    "validation": {
        "every_n_steps": "validate_every_n_steps",
        "every_n_epochs": "validate_every_n_epochs",
        "max_steps": "max_validation_steps",
        "seed": "validation_seed",
        "patience": "early_stopping_patience",
    },
    "log": {
        "tracker_name": "log_tracker_name",
        "tracker_config": "log_tracker_config",
        "console_level": "console_log_level",
        "console_file": "console_log_file",
        "console_simple": "console_log_simple",
        "diagnosis": "no_diagnosis",
    },
    "hub": {
        "visibility": "huggingface_repo_visibility",
        "save_state": "save_state_to_huggingface",
        "async_upload": "async_upload",
    },
}
PREFIX = {"save": "save_", "sample": "sample_", "hub": "huggingface_"}


def flag_of(section: str, name: str) -> str:
    """The flag behind a field of a section, '' where several or none stand behind it."""
    for flag in (FLAG_OF.get(section, {}).get(name, ""), name, PREFIX.get(section, "") + name):
        if flag in BY_NAME:
            return flag
    return ""


def text(config: RunConfig) -> str:
    """The whole run by section: name, value, origin. What nobody chose and is off is left out."""
    lines = [f"{config.script}: what this run would do"]
    for section, title in TITLES.items():
        record = getattr(config, section)
        if record is None:
            continue
        rows = list(_rows(config, section, record))
        if rows:
            width = max(len(name) for name, _, _ in rows)
            lines += [
                "",
                title,
                *(f"  {name:{width}}  {value}" + (f"   [{origin}]" if origin else "") for name, value, origin in rows),
            ]
    return mask("\n".join([*lines, ""]))


def settings(config: RunConfig) -> list[tuple[str, str, str]]:
    """(name, value, origin) of everything that was chosen or is on, in the order of the sections."""
    records = [(section, getattr(config, section)) for section in TITLES]
    rows = [row for section, record in records if record is not None for row in _rows(config, section, record)]
    return [(name, mask(value), origin) for name, value, origin in rows]


def _rows(config: RunConfig, section: str, record: Any) -> list[tuple[str, str, str]]:
    rows = []
    for field in dataclasses.fields(record):
        value, flag = getattr(record, field.name), flag_of(section, field.name)
        origin = config.origins.get(flag, "")
        if section == "data" and field.name in ("parts", "template"):
            rows += _data_rows(config, field.name, value)
        elif section == "data" and field.name == "slider":
            rows += _rows(config, "slider", value) if config.data.slides else []
        elif section == "text" and field.name == "pairs":
            rows += [("pair", _in_words(pair), "") for pair in value]
        elif section == "model" and field.name == "options":
            rows += [(name, _plain(one), config.origins.get(name, "")) for name, one in value.items()]
        elif not (value in (None, False, (), {}) and origin in ("", "default")):
            rows.append((field.name, _plain(value), origin))
    return rows


def _in_words(pair: PromptPair) -> str:
    return f'"{pair.target}": from "{pair.negative}" to "{pair.positive}", times {pair.amount:g}'


def _data_rows(config: RunConfig, name: str, value: Any) -> list[tuple[str, str, str]]:
    if name == "template":
        return _record_rows("each folder: ", value, config) if value is not None and config.data.folder_mode else []
    rows = []
    for number, part in enumerate(value, 1):
        label = f"data set {number}: " if len(value) > 1 else ""
        rows += _record_rows(label, part, config if config.data.folder_mode else None, skip=("subsets",))
        for index, subset in enumerate(part.subsets, 1):
            rows += _record_rows(f"{label}subset {index}: ", subset, None)
    return rows


def _record_rows(
    label: str, record: Any, config: RunConfig | None, skip: tuple[str, ...] = ()
) -> list[tuple[str, str, str]]:
    """Fields of a record that are not at their default, with origins where the flags alone decide."""
    rows = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name in skip or (value == field.default and field.name != "resolution") or value in (None, {}):
            continue
        origin = config.origins.get(flag_of("data", field.name), "") if config else ""
        rows.append((label + field.name, _plain(value), origin))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_plain(one)}" for key, one in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(_plain(one) for one in value)
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


def to_json(config: RunConfig) -> str:
    """The run as JSON (one object per section), readable by any program; nothing shaped like a secret is in it."""
    return json.dumps(_data(config), indent=2, ensure_ascii=False) + "\n"


def _data(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _data(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_data(one) for one in value]
    return mask(str(value)) if isinstance(value, str | Path) else value
