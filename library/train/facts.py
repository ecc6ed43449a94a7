"""Plain records of a run for metadata, report and state folders, put together from what the stages found."""

from __future__ import annotations

import platform
import random
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from library.config.run_config import RunConfig
from library.config.show import settings
from library.data.plan import DatasetPlan
from library.families.interface import Family, Parts
from library.flags.hidden import shown_words
from library.optim.optimizers import Created
from library.report.record import DataLine, RunReport, Setting
from library.save import hashes
from library.save.record import DatasetFacts, ModelFacts, RunFacts, SubsetFacts
from library.util.secrets import mask
from library.util.version import VERSION
from networks.lycoris_fixes import facts_of_config

from .loop import Length
from .state import Fingerprint

PREDICTION = {"eps": "epsilon", "v": "v", "flow": None}


def model_facts(config: RunConfig, family: Family, parts: Parts) -> ModelFacts:
    """Name and hashes of the base model; hashing a file reads it once."""
    source, vae = config.model.source, config.model.vae
    found = Path(source).exists()
    has_vae = vae is not None and Path(vae).exists()
    space = family.schedule(parts.options, config.noise).space
    return ModelFacts(
        base_version=family.base_version(parts.options), architecture=family.architecture(parts.options),
        prediction_type=PREDICTION[space], default_resolution=family.SPEC.default_resolution,
        name=mask(hashes.source_name(source)), hash_short=hashes.model_hash_short(source) if found else None,
        hash_full=hashes.model_hash(source) if found else None,
        vae_name=hashes.source_name(vae) if vae else None, vae_hash_short=hashes.model_hash_short(vae) if has_vae else None,
        vae_hash_full=hashes.model_hash(vae) if has_vae else None, v2=bool(config.model.options.get("v2", False)))


def dataset_facts(plan: DatasetPlan) -> list[DatasetFacts]:
    """What the metadata tells of the pictures, part by part."""
    found = []
    for index, part in enumerate(plan.parts):
        subsets = [one for one in plan.subsets if one.part == index]
        found.append(DatasetFacts(
            config=part, subsets=[SubsetFacts(one.config, one.images) for one in subsets],
            num_train_images=plan.images(index), num_reg_images=plan.reg_images(index),
            tag_frequency=plan.tag_frequency[index],
            buckets=plan.bucket_counts(index) if part.enable_bucket else (),
            mean_img_ar_error=plan.mean_ratio_error(index),
            is_dreambooth=all(one.config.metadata_file is None for one in subsets)))
    return found


def run_facts(config: RunConfig, model: ModelFacts, plan: DatasetPlan, made: Created, length: Length) -> RunFacts:
    """The facts of the whole run for file metadata."""
    return RunFacts(
        session_id=random.SystemRandom().randrange(2**32), started_at=time.time(), model=model,
        datasets=dataset_facts(plan), optimizer=made.metadata, num_batches_per_epoch=length.batches,
        num_epochs=length.epochs, max_train_steps=length.steps, batches_per_step=length.batches_per_step,
        num_validation_images=len(plan.validation), version=VERSION,
        extra=picture_facts(config, plan) | text_facts(config) | assistant_facts(config)
        | facts_of_config(config.network.module, config.network.args))


def picture_facts(config: RunConfig, plan: DatasetPlan) -> dict[str, Any]:
    """What the file tells of a slider that was learned from pictures: at which strengths, on which layers, how."""
    strengths = sorted({item.strength for item in plan.items if item.strength}, reverse=True)
    if not strengths:
        return {}
    order = config.data.slider
    return {"ss_slider_strengths": ",".join(f"{strength:g}" for strength in strengths),
            "ss_slider_target": config.network.targets or "", "ss_slider_neutral": order.neutral,
            "ss_slider_pairs": len(plan.partners)}


def text_facts(config: RunConfig) -> dict[str, Any]:
    """What the file tells of the texts that a slider was learned from, under the names of kohya's LECO trainer and ours."""
    text = config.text
    if text is None:
        return {}
    words = [{"target": one.target, "positive": one.positive, "unconditional": one.negative, "neutral": one.start,
              "action": "enhance", "multiplier": one.strength, "weight": one.weight} for one in text.pairs[:16]]
    return {"ss_leco_prompt_count": len(text.pairs), "ss_leco_prompts_file": text.file.name, "ss_leco_preview": words,
            "ss_slider_target": config.network.targets or "", "ss_slider_states": text.states,
            "ss_slider_kept": list(text.kept)}


def assistant_facts(config: RunConfig) -> dict[str, Any]:
    """What the file tells of the frozen LoRA that helped: its name, strength and hash."""
    if config.network.assistant is None:
        return {}
    file, strength = config.network.assistant
    return {"ss_assistant_lora": Path(file).name, "ss_assistant_lora_strength": strength,
            "ss_assistant_lora_hash": hashes.model_hash(file)}


def fingerprint(config: RunConfig, length: Length) -> Fingerprint:
    """What a state folder remembers of the run that wrote it."""
    network = config.network
    return Fingerprint(
        network_module=network.module, network_dim=network.dim, network_alpha=network.alpha,
        optimizer=config.optimizer.name.lower(), batches_per_epoch=length.batches, seed=config.loop.seed,
        trains_text_encoder=network.train_text_encoder, trains_denoiser=network.train_denoiser)


def report(config: RunConfig, family: Family, plan: DatasetPlan, argv: list[str]) -> RunReport:
    """The beginnings of the run's report: settings with their origins, data, the command to repeat it."""
    return RunReport(
        name=config.save.output_name, output_dir=config.save.output_dir,
        command=mask(" ".join(_quoted(word) for word in ["accelerate", "launch", config.script, *shown_words(argv)])),
        program=program(), base_model=mask(config.model.source), family=family.SPEC.title,
        settings=[Setting(*one) for one in settings(config)],
        data=[DataLine(one.name, one.images, one.config.num_repeats, one.captioned, one.config.is_reg,
                       one.config.slider_strength) for one in plan.subsets],
        buckets=[(f"{size[0]}x{size[1]}", count) for part in range(len(plan.parts))
                 for size, count in plan.bucket_counts(part)],
        slides=plan.has_strengths or config.text is not None)


def program() -> str:
    """Versions and machine in one line, for reports that people send."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "diffusers", "transformers", "accelerate"))
    return f"version {VERSION}, Python {platform.python_version()}, {versions}, {platform.system()} {platform.machine()}"


def _quoted(word: str) -> str:
    return f'"{word}"' if (any(mark in word for mark in ' "\\') and sys.platform == "win32") or " " in word else word


def plain_settings(config: RunConfig) -> dict[str, str]:
    """Name -> value of everything that was chosen, for trackers."""
    return {name: value for name, value, _ in settings(config)}
