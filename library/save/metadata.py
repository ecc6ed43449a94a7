"""The metadata of a saved LoRA: kohya's ``ss_`` keys and ``modelspec`` ones, every value as text.

Python's own text of a value is the format (``None``, ``False``, ``0.0001``, ``(512, 512)``); records are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from itertools import count
from typing import Any

from library.config.run_config import RunConfig, SubsetConfig
from library.save.record import DatasetFacts, Moment, RunFacts, SubsetFacts
from library.util.secrets import mask

# what --no_metadata leaves
MINIMUM = ("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha",
           "ss_network_args")
MODELSPEC_VERSION = "1.0.1"


def build(run: RunConfig, facts: RunFacts, moment: Moment) -> dict[str, str]:
    """The metadata of a file saved at ``moment``; ``--no_metadata`` leaves only what readers cannot do without.

    The ``sshs_`` hashes are not here: they follow from the file's bytes and are added when it is written.
    """
    values: dict[str, Any] = {
        **_of_run(run, facts, moment), **_of_network(run, facts), **_of_training(run), **_of_noise_and_loss(run),
        **_of_model(facts), **_of_data(run, facts), **facts.extra,
    }
    if run.save.no_metadata:
        values = {key: values[key] for key in MINIMUM if key in values}
    return {key: mask(_text(value)) for key, value in {**values, **modelspec(run, facts, moment)}.items()}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True) if isinstance(value, (dict, list)) else str(value)


def _one_or_list(rates: tuple[float, ...] | None) -> float | str | None:
    if not rates:
        return None
    return rates[0] if len(rates) == 1 else str(list(rates))


def _of_run(run: RunConfig, facts: RunFacts, moment: Moment) -> dict[str, Any]:
    return {
        "ss_session_id": facts.session_id,
        "ss_training_started_at": facts.started_at,
        "ss_training_finished_at": moment.now,
        "ss_output_name": run.save.output_name,
        "ss_num_train_images": facts.num_train_images,
        "ss_num_validation_images": facts.num_validation_images,
        "ss_num_reg_images": facts.num_reg_images,
        "ss_num_batches_per_epoch": facts.num_batches_per_epoch,
        "ss_num_epochs": facts.num_epochs,
        "ss_epoch": moment.epoch,
        "ss_steps": moment.steps,
        "ss_max_train_steps": facts.max_train_steps,
        "ss_seed": run.loop.seed,
        "ss_training_comment": run.save.training_comment,
        "ss_sd_scripts_commit_hash": facts.version,
        "ss_validation_seed": run.validation.seed,
        "ss_validation_split": _validation_split(run),
        "ss_max_validation_steps": run.validation.max_steps,
        "ss_validate_every_n_epochs": run.validation.every_n_epochs,
        "ss_validate_every_n_steps": run.validation.every_n_steps,
    }


def _validation_split(run: RunConfig) -> float:
    return float(run.data.parts[0].validation_split) if run.data.parts else 0.0


def _of_network(run: RunConfig, facts: RunFacts) -> dict[str, Any]:
    network = run.network
    values: dict[str, Any] = {
        "ss_network_module": network.module,
        "ss_network_dim": facts.network_dim if facts.network_dim is not None else network.dim,
        "ss_network_alpha": network.alpha,
        "ss_network_dropout": network.dropout,
        "ss_scale_weight_norms": network.scale_weight_norms,
    }
    if network.args:
        values["ss_network_args"] = {**network.args, "dropout": network.dropout} if "dropout" not in network.args else {
            **network.args}
    return values


def _of_training(run: RunConfig) -> dict[str, Any]:
    return {
        "ss_learning_rate": run.optimizer.lr,
        "ss_text_encoder_lr": _one_or_list(run.optimizer.text_encoder_lr),
        "ss_unet_lr": run.optimizer.unet_lr,
        "ss_optimizer": None,
        "ss_max_grad_norm": run.optimizer.max_grad_norm,
        "ss_lr_scheduler": run.schedule.name,
        "ss_lr_warmup_steps": run.schedule.warmup,
        "ss_gradient_checkpointing": run.machine.gradient_checkpointing,
        "ss_gradient_accumulation_steps": run.loop.gradient_accumulation_steps,
        "ss_mixed_precision": run.machine.mixed_precision,
        "ss_full_fp16": run.machine.full_fp16,
        "ss_fp8_base": run.machine.fp8_base,
        "ss_fp8_base_unet": run.machine.fp8_base_unet,
        "ss_lowram": run.machine.lowram,
        "ss_clip_skip": run.model.clip_skip,
        "ss_max_token_length": run.model.max_token_length,
        "ss_cache_latents": run.cache.latents,
    }


def _of_noise_and_loss(run: RunConfig) -> dict[str, Any]:
    noise, loss = run.noise, run.loss
    return {
        "ss_noise_offset": noise.offset,
        "ss_noise_offset_random_strength": noise.offset_random_strength,
        "ss_adaptive_noise_scale": noise.adaptive_noise_scale,
        "ss_multires_noise_iterations": noise.multires_iterations,
        "ss_multires_noise_discount": noise.multires_discount,
        "ss_ip_noise_gamma": noise.ip_noise_gamma,
        "ss_ip_noise_gamma_random_strength": noise.ip_noise_gamma_random_strength,
        "ss_zero_terminal_snr": noise.zero_terminal_snr,
        "ss_loss_type": loss.type,
        "ss_huber_schedule": loss.huber_schedule,
        "ss_huber_scale": loss.huber_scale,
        "ss_huber_c": loss.huber_c,
        "ss_min_snr_gamma": loss.min_snr_gamma,
        "ss_debiased_estimation": loss.debiased_estimation,
        "ss_prior_loss_weight": loss.prior_loss_weight,
    }


def _of_model(facts: RunFacts) -> dict[str, Any]:
    model = facts.model
    given = {
        "ss_sd_model_name": model.name, "ss_sd_model_hash": model.hash_short,
        "ss_new_sd_model_hash": model.hash_full, "ss_vae_name": model.vae_name,
        "ss_vae_hash": model.vae_hash_short, "ss_new_vae_hash": model.vae_hash_full,
    }
    return {"ss_v2": model.v2, "ss_base_model_version": model.base_version, "ss_optimizer": facts.optimizer,
            **{key: value for key, value in given.items() if value is not None}}


# ------------------------------------------------------------------------------------------------------------- data


def _of_data(run: RunConfig, facts: RunFacts) -> dict[str, Any]:
    subset = _first_subset(facts)
    common = {
        "ss_caption_dropout_rate": float(subset.caption_dropout_rate),
        "ss_caption_dropout_every_n_epochs": subset.caption_dropout_every_n_epochs,
        "ss_caption_tag_dropout_rate": float(subset.caption_tag_dropout_rate),
        "ss_face_crop_aug_range": subset.face_crop_aug_range,
        "ss_resize_interpolation": subset.resize_interpolation,
    }
    if not facts.datasets:
        return common
    return {**common, **(_folder_mode(facts) if run.data.folder_mode else _config_mode(facts))}


def _first_subset(facts: RunFacts) -> SubsetConfig:
    return next((s.config for d in facts.datasets for s in d.subsets), SubsetConfig(image_dir=None))


def _folder_mode(facts: RunFacts) -> dict[str, Any]:
    data = facts.datasets[0]
    part, subset = data.config, next((s.config for s in data.subsets), SubsetConfig(image_dir=None))
    return {
        "ss_batch_size_per_device": part.batch_size,
        "ss_total_batch_size": part.batch_size * facts.batches_per_step,
        "ss_resolution": tuple(part.resolution),
        "ss_color_aug": subset.color_aug,
        "ss_flip_aug": subset.flip_aug,
        "ss_random_crop": subset.random_crop,
        "ss_shuffle_caption": subset.shuffle_caption,
        "ss_enable_bucket": part.enable_bucket,
        "ss_bucket_no_upscale": part.bucket_no_upscale,
        "ss_min_bucket_reso": part.min_bucket_reso,
        "ss_max_bucket_reso": part.max_bucket_reso,
        "ss_keep_tokens": subset.keep_tokens,
        "ss_dataset_dirs": _dirs(data.subsets, is_reg=False),
        "ss_reg_dataset_dirs": _dirs(data.subsets, is_reg=True),
        "ss_tag_frequency": {k: dict(v) for k, v in data.tag_frequency.items()},
        "ss_bucket_info": _bucket_info(data),
    }


def _dirs(subsets: Any, is_reg: bool) -> dict[str, dict[str, int]]:
    return {s.name: {"n_repeats": s.config.num_repeats, "img_count": s.img_count}
            for s in subsets if s.config.is_reg == is_reg}


def _bucket_info(data: DatasetFacts) -> dict[str, Any] | None:
    if not data.buckets or data.mean_img_ar_error is None:
        return None
    rows = {str(i): {"resolution": list(size), "count": count} for i, (size, count) in enumerate(data.buckets)}
    return {"buckets": rows, "mean_img_ar_error": data.mean_img_ar_error}


def _config_mode(facts: RunFacts) -> dict[str, Any]:
    frequency: dict[str, dict[str, int]] = {}
    dirs: dict[str, dict[str, int]] = {}
    for data in facts.datasets:
        for folder, tags in data.tag_frequency.items():
            # A folder that two data sets share is counted once: the same captions stand behind both.
            frequency.setdefault(folder, dict(tags))
        for subset in data.subsets:
            if not subset.config.is_reg:
                dirs[_free_name(subset.name, dirs)] = {"n_repeats": subset.config.num_repeats, "img_count": subset.img_count}
    return {"ss_datasets": [_dataset_record(d) for d in facts.datasets], "ss_tag_frequency": frequency,
            "ss_dataset_dirs": dirs}


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    """``name``, or ``name (2)``, ``name (3)``, ... where several subsets bear it (kohya's way)."""
    names = (name if number == 1 else f"{name} ({number})" for number in count(1))
    return next(one for one in names if one not in taken)


def _dataset_record(data: DatasetFacts) -> dict[str, Any]:
    part = data.config
    record: dict[str, Any] = {
        "is_dreambooth": data.is_dreambooth,
        "batch_size_per_device": part.batch_size,
        "num_train_images": data.num_train_images,
        "num_reg_images": data.num_reg_images,
        "resolution": list(part.resolution),
        "enable_bucket": part.enable_bucket,
    }
    if part.enable_bucket:
        record |= {"min_bucket_reso": part.min_bucket_reso, "max_bucket_reso": part.max_bucket_reso}
    subset = next((s.config for s in data.subsets), SubsetConfig(image_dir=None))
    return record | {
        "tag_frequency": {k: dict(v) for k, v in data.tag_frequency.items()},
        "bucket_info": _bucket_info(data),
        "resize_interpolation": subset.resize_interpolation,
        "subsets": [_subset_record(s, data.is_dreambooth) for s in data.subsets],
    }


def _subset_record(facts: SubsetFacts, is_dreambooth: bool) -> dict[str, Any]:
    subset = facts.config
    record: dict[str, Any] = {
        "img_count": facts.img_count,
        "num_repeats": subset.num_repeats,
        "color_aug": subset.color_aug,
        "flip_aug": subset.flip_aug,
        "random_crop": subset.random_crop,
        "shuffle_caption": subset.shuffle_caption,
        "keep_tokens": subset.keep_tokens,
        "keep_tokens_separator": subset.keep_tokens_separator,
        "secondary_separator": subset.secondary_separator,
        "enable_wildcard": subset.enable_wildcard,
        "caption_prefix": subset.caption_prefix,
        "caption_suffix": subset.caption_suffix,
        "resize_interpolation": subset.resize_interpolation,
        "image_dir": None if subset.image_dir is None else subset.image_dir.name,
    }
    if is_dreambooth:
        return record | {"class_tokens": subset.class_tokens, "is_reg": subset.is_reg}
    return record | {"metadata_file": None if subset.metadata_file is None else subset.metadata_file.name}


# -------------------------------------------------------------------------------------------------------- modelspec


def modelspec(run: RunConfig, facts: RunFacts, moment: Moment) -> dict[str, Any]:
    """The ``modelspec.`` keys of the SAI model metadata specification, optional ones where they were given."""
    typed: Mapping[str, str] = run.save.modelspec
    stamp = datetime.fromtimestamp(int(moment.now)).isoformat()
    values: dict[str, Any] = {
        "sai_model_spec": MODELSPEC_VERSION,
        "architecture": f"{facts.model.architecture}/lora",
        "implementation": "diffusers",
        "implementation_version": f"sd-scripts/{facts.version}",
        "title": typed.get("title") or run.save.output_name or f"LoRA@{moment.now}",
        "resolution": "x".join(map(str, _resolution(run, facts))),
        "date": stamp,
        "prediction_type": facts.model.prediction_type,
        "timestep_range": _timestep_range(run),
        "encoder_layer": run.model.clip_skip,
        **{key: value for key, value in typed.items() if key != "title" and value},
    }
    return {f"modelspec.{key}": value for key, value in values.items() if value is not None}


def _resolution(run: RunConfig, facts: RunFacts) -> tuple[int, int]:
    """Width and height: as trained in folder mode, the model's own where every data set has its own."""
    if run.data.folder_mode and facts.datasets:
        return facts.datasets[0].config.resolution
    return (facts.model.default_resolution,) * 2


def _timestep_range(run: RunConfig) -> str | None:
    if run.noise.min_timestep is None and run.noise.max_timestep is None:
        return None
    high = 1000 if run.noise.max_timestep is None else run.noise.max_timestep
    return f"{run.noise.min_timestep or 0},{high}"
