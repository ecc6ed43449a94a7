"""Flags -> RunConfig: every value decided once, with all contradictions reported together."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from library.config import sections
from library.config.data_reading import DataReading
from library.config.dataset_toml import part, read_parts, template
from library.config.rules import judge
from library.config.run_config import DatasetConfig, ModelConfig, RunConfig
from library.families import registry
from library.families.interface import Family
from library.flags import Flags, flags_of
from library.util.records import Problem, UserError
from library.util.said import say


@dataclass(frozen=True)
class Detected:
    """What a model's files tell: its family, and values of that family's options (``v_parameterization``, ...)."""

    family: str
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Problem, ...] = ()


Detect = Callable[[str, Flags], Detected]
"""(source as typed, flags) -> what it is; raises UserError where that cannot be told."""
MOVING_CAPTIONS = ("shuffle_caption", "caption_dropout_rate", "token_warmup_step", "caption_tag_dropout_rate", "enable_wildcard",
                   "caption_dropout_every_n_epochs")  # fmt: skip
"""Options of a subset that give a picture another caption each time."""
FamilyOf = Callable[[str], Family]


def resolve(flags: Flags, detect: Detect, family_of: FamilyOf = registry.get) -> RunConfig:
    """Decide every value of a run.

    ``detect`` looks at the base model's files; ``family_of`` gives a family's module by name. Raises UserError with
    every problem that the flags, the data description and the model's header show together. Notes go to
    ``RunConfig.notes``.
    """
    found = list(judge(flags))
    data, reading = data_of(flags)
    data = replace(data, slider=sections.slider_order(flags))
    found += [*reading.problems, *reading.notes]
    network, optimizer, schedule = (
        make(flags, found) for make in (sections.network, sections.optimizer, sections.schedule)
    )
    text, sample = sections.text_slider(flags, found), sections.sample(flags, found)
    model, family, origins = None, None, {name: flags.origin(name) for name in flags.values}
    if flags["pretrained_model_name_or_path"]:
        model, family = _model(flags, detect, family_of, origins, found)
    if model is not None:
        found += _against_model(flags, model, family, data)
    seed = flags["seed"] if flags["seed"] is not None else random.SystemRandom().randrange(2**32)
    if flags["seed"] is None:
        found.append(
            Problem("--seed", say("No seed was given; {seed} was drawn by chance.", seed=seed),
                    say("Give --seed={seed} to repeat this run.", seed=seed), "note", "settings")
        )
        origins["seed"] = "drawn"
    if any(problem.severity == "stop" for problem in found):
        raise UserError(*dict.fromkeys(problem for problem in (*flags.notes, *found) if problem.severity != "note"))
    assert model is not None
    return RunConfig(
        script=flags.script,
        model=model,
        network=network,
        optimizer=optimizer,
        schedule=schedule,
        loss=sections.loss(flags),
        noise=sections.noise(flags),
        data=data,
        cache=sections.cache(flags),
        loop=sections.loop(flags, seed),
        machine=sections.machine(flags),
        save=sections.save(flags),
        sample=sample,
        validation=sections.validation(flags),
        log=sections.log(flags),
        hub=sections.hub(flags),
        text=text,
        dry_run=flags["dry_run"],
        debug_dataset=flags["debug_dataset"],
        origins=origins,
        notes=tuple(dict.fromkeys((*flags.notes, *found))),
    )


def _model(
    flags: Flags, detect: Detect, family_of: FamilyOf, origins: dict[str, str], found: list[Problem]
) -> tuple[ModelConfig | None, Family | None]:
    """The base model's section: a typed option wins over one found in its files, that over the script's default.

    The defaults of another architecture's script are not asked: a Lumina model does not learn with Flux' prediction type.
    """
    source = flags["pretrained_model_name_or_path"]
    try:
        detected = detect(source, flags)
        family = family_of(detected.family)
    except UserError as error:
        found += error.problems
        return None, None
    found += detected.notes
    names = [one.name for one in fields(family.Options)]
    options: dict[str, Any] = {}
    own = flags.script in family.SPEC.scripts
    for name in names:
        if name in flags and (flags.given(name) or (own and name not in detected.options)):
            options[name] = flags[name]
        elif name in detected.options:
            options[name] = detected.options[name]
            origins[name] = "checkpoint"
    better = _better(flags, family, options)
    if flags["recommended"]:
        options |= better
        origins |= dict.fromkeys(better, "recommended")
    elif better:
        found.append(_advice(family, better))
    found += [*_about_assistant(source, flags, family), *_about_model_type(flags, family)]
    for name in flags.changed():
        if flags_of(flags.script)[name].served.kind == "family" and name not in names:
            found.append(
                Problem(
                    f"--{name}",
                    say("It does not exist for {title}, which the base model is.", title=family.SPEC.title),
                    "Leave it out, or check that the base model is the one you meant.",
                    check="settings",
                )
            )
    return ModelConfig(
        source=source,
        family=detected.family,
        options={name: value for name, value in options.items() if value is not None},
        vae=flags["vae"] or None,
        clip_skip=flags["clip_skip"] or None,
        max_token_length=flags["max_token_length"],
        weighted_captions=flags["weighted_captions"],
    ), family


def _better(flags: Flags, family: Family, options: Mapping[str, Any]) -> dict[str, Any]:
    """Documented settings that nobody typed and that differ from what holds; an option not in ``options`` has its default."""
    defaults = {one.name: one.default for one in fields(family.Options)}
    return {name: value for name, value in family.SPEC.recommended.items()
            if not flags.given(name) and (defaults[name] if options.get(name) is None else options[name]) != value}  # fmt: skip


def _advice(family: Family, better: Mapping[str, Any]) -> Problem:
    settings = " ".join(f"--{name}={value}" for name, value in better.items())
    return Problem("--recommended", say("For {title} {settings} is documented as better than the defaults that hold.",
                                          title=family.SPEC.title, settings=settings),
                   "Add --recommended to use it.", "note", "settings")  # fmt: skip


def _about_assistant(source: str, flags: Flags, family: Family) -> list[Problem]:
    """The note on a distilled model, which its name tells, that is to be trained as if it were none."""
    words = re.split(r"[^a-z0-9]+", " ".join(Path(source).parts[-2:]).lower())
    if flags["assistant_lora"] or not set(words) & set(family.SPEC.distilled_marks):
        return []
    return [Problem("--assistant_lora", "The model's name tells a distilled variant: trained plainly, it loses its few-step "
                    "quality with every step.", "Give its training adapter (de-distillation LoRA) as --assistant_lora=FILE, "
                    "or keep the run short.", "note", "settings")]


def _about_model_type(flags: Flags, family: Family) -> list[Problem]:
    """--model_type, of a script that two architectures share, names the other one; the file decides."""
    own = {one.name: one.default for one in fields(family.Options)}.get("model_type")
    if own is None or not flags.given("model_type") or flags["model_type"] == own:
        return []
    return [Problem("--model_type", say("It says {typed}, but the base model is {title}.", typed=flags["model_type"],
                                        title=family.SPEC.title),
                    "Leave it out (the model is told by its file), or choose the other base model.", check="settings")]


def data_of(flags: Flags) -> tuple[DatasetConfig, DataReading]:
    """The pictures' section: from --dataset_config, or from the folder flags with a template for the scan."""
    reading = DataReading()
    common = {
        "kohya_order": flags["kohya_order"],
        "workers": flags["max_data_loader_n_workers"],
        "allow_truncated": flags["allow_truncated_images"],
    }
    if flags["dataset_config"]:
        path = Path(flags["dataset_config"])
        config = DatasetConfig(read_parts(path, flags, reading), folder_mode=False, dataset_config=path, **common)
    elif flags["prompts_file"] and not (flags["train_data_dir"] or flags["in_json"]):
        config = DatasetConfig((), folder_mode=False, **common)
    else:
        config = _folders(flags, reading, common)
    _check_subsets(flags, config, reading)
    if flags["early_stopping_patience"] and not any(one.validation_split for one in config.parts):
        reading.stop(
            "--early_stopping_patience",
            "It watches the validation loss, and no pictures are held out to measure it on.",
            "Add --validation_split=0.1, or leave it out.",
        )
    return config, reading


def _folders(flags: Flags, reading: DataReading, common: dict[str, Any]) -> DatasetConfig:
    folder, reg = (Path(flags[name]) if flags[name] else None for name in ("train_data_dir", "reg_data_dir"))
    pattern = template(flags)
    subsets = ()
    if flags["in_json"]:
        subsets = (
            replace(
                pattern, image_dir=folder, metadata_file=Path(flags["in_json"]), num_repeats=flags["dataset_repeats"]
            ),
        )
    whole = part(flags, subsets=subsets, where="--resolution", reading=reading)
    return DatasetConfig((whole,), train_data_dir=folder, reg_data_dir=reg, template=pattern, **common)


def _check_subsets(flags: Flags, config: DatasetConfig, reading: DataReading) -> None:
    """Options of subsets that caching makes impossible, and values out of range, with the subset's name."""
    caches_latents = flags["cache_latents"] or flags["cache_latents_to_disk"]
    caches_text = sections.caches_text(flags)
    subsets = [subset for one in config.parts for subset in one.subsets]
    for subset in subsets or [config.template]:
        if subset is None:
            continue
        name = str(subset.image_dir or subset.metadata_file or "")
        place = say(" in subset {name}", name=name) if name else ""
        if caches_latents and not config.folder_mode:
            for option in ("color_aug", "random_crop"):
                if getattr(subset, option):
                    reading.judged("latents_subset", "--cache_latents", option=option, place=place)
        moving = [
            option
            for option in MOVING_CAPTIONS
            if getattr(subset, option)
        ]
        if caches_text and moving:
            reading.judged("cached_text_shuffle", "--cache_text_encoder_outputs", moving=moving, place=place)
        if subset.token_warmup_min < 1 or subset.token_warmup_step < 0:
            reading.stop(
                "token_warmup",
                say("token_warmup_min is {token_warmup_min} and token_warmup_step {token_warmup_step}{place}, but the number of "
                    "tags to begin with is 1 or more, and the steps until all are used 0 or more.",
                    token_warmup_min=subset.token_warmup_min, token_warmup_step=subset.token_warmup_step, place=place),
                "Give such numbers, or remove both.",
            )
        for option in ("caption_dropout_rate", "caption_tag_dropout_rate"):
            if not config.folder_mode and not 0 <= getattr(subset, option) <= 1:
                reading.stop(
                    "--dataset_config",
                    say("{option} is {value}{place}, but a part of the captions lies between 0 (none) and 1 (all).",
                        option=option, value=getattr(subset, option), place=place),
                    "Write 0.1 for ten per cent.",
                )


def _against_model(flags: Flags, model: ModelConfig, family: Family, data: DatasetConfig) -> list[Problem]:
    """What the flags and the model's kind contradict."""
    found = []
    v_prediction = bool(model.options.get("v_parameterization"))
    if flags["scale_v_pred_loss_like_noise_pred"] and not v_prediction:
        found.append(
            Problem(
                "--scale_v_pred_loss_like_noise_pred",
                "It is for models that predict v, and this one does not.",
                "Leave it out, or add --v_parameterization if the model does.",
                check="settings",
            )
        )
    if flags["v_pred_like_loss"] and v_prediction:
        found.append(
            Problem(
                "--v_pred_like_loss",
                "It is for models that predict noise, and this one predicts v.",
                "Leave it out.",
                check="settings",
            )
        )
    formats = family.SPEC.save_formats
    if flags["save_format"] not in formats:
        found.append(
            Problem(
                "--save_format",
                say("{save_format} does not exist for {title}.", save_format=flags['save_format'], title=family.SPEC.title),
                say("Use --save_format={formats:or}.", formats=formats),
                check="settings",
            )
        )
    step = family.SPEC.bucket_step
    for one in data.parts:
        if one.enable_bucket and one.bucket_reso_steps > 0 and one.bucket_reso_steps % step:
            found.append(
                Problem(
                    "--bucket_reso_steps",
                    say("It is {bucket_reso_steps}; {title} needs a multiple of {step}.",
                        bucket_reso_steps=one.bucket_reso_steps, title=family.SPEC.title, step=step),
                    say("Set --bucket_reso_steps={step}.", step=step),
                    check="settings",
                )
            )
    return found
