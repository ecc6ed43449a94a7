"""Settings that contradict each other or make no sense, as a table: each rule is judged on the flags alone.

Rules see the flags after files and command line are merged. This is the one place that judges them: a run is refused by
``resolve`` because of them, and the start-up checks of the same names (``library/preflight/ruled.py``) show them. What needs
the model, the pictures or the machine is judged by the other start-up checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from library.config.ranges import out_of_range
from library.config.sections import DEFAULT_MODULE, caches_text
from library.flags import Flags, flags_of
from library.flags.scripts import SAME_FLAGS
from library.util.records import Problem, Severity
from library.util.said import say


@dataclass(frozen=True)
class Rule:
    """One rule: ``broken(flags)`` is true, or gives further values for the texts, where it is broken.

    The texts are formatted with these values and with the flags' own.
    """

    name: str
    """The start-up check that shows it."""
    where: str
    broken: Callable[[Flags], Any]
    what: str
    remedy: str
    severity: Severity = "stop"


def _warms_up(flags: Flags, schedule: str) -> bool:
    name = flags["lr_scheduler"].lower().split(":")[0]
    return bool(flags["lr_warmup_steps"]) and not flags["lr_scheduler_type"] and name == schedule


def _caches_latents(flags: Flags) -> bool:
    return flags["cache_latents"] or flags["cache_latents_to_disk"]


def _rates(flags: Flags) -> list[float]:
    return [rate for rate in (flags["text_encoder_lr"] or []) if rate]


def _pictures(flags: Flags) -> Any:
    return flags["train_data_dir"] or flags["dataset_config"] or flags["in_json"]


def _trains_nothing(flags: Flags) -> Mapping[str, Any]:
    """The two rates, where those that count are all 0; {} where something is trained."""
    unet = flags["learning_rate"] if flags["unet_lr"] is None else flags["unet_lr"]
    text = flags["text_encoder_lr"] or [flags["learning_rate"]]
    trains_unet = unet != 0 and not flags["network_train_text_encoder_only"]
    trains_text = any(text) and not flags["network_train_unet_only"] and not caches_text(flags)
    if trains_unet or trains_text or (flags["network_train_unet_only"] and flags["network_train_text_encoder_only"]):
        return {}
    none = say("none (not trained)")
    return {"unet": none if flags["network_train_text_encoder_only"] else str(unet),
            "text": none if flags["network_train_unet_only"] or caches_text(flags) else ", ".join(map(str, text))}


def _several_optimizers(flags: Flags) -> Mapping[str, Any]:
    """The ways in which more than one optimizer was asked for; the same one named twice is one."""
    old = [name for name in ("use_8bit_adam", "use_lion_optimizer") if flags[name]]
    same = {"use_8bit_adam": "adamw8bit", "use_lion_optimizer": "lion"}
    named = flags["optimizer_type"]
    if named:
        old = [name for name in old if same[name] != named.lower()]
    given = [*([f"--optimizer_type={named}"] if named else []), *(f"--{name}" for name in old)]
    return {"given": given} if len(given) > 1 else {}


def _changing(flags: Flags) -> Mapping[str, Any]:
    on = [f"--{name}" for name in ("color_aug", "random_crop", "face_crop_aug_range") if flags[name]]
    return {"on": on} if on and _caches_latents(flags) else {}


def _beside(flags: Flags) -> Mapping[str, Any]:
    """The folder flags that a data set file leaves unused."""
    names = [f"--{name}" for name in ("train_data_dir", "reg_data_dir", "in_json") if flags[name]]
    return {"ignored": names} if flags["dataset_config"] and names else {}


def _more_strengths(flags: Flags) -> Mapping[str, Any]:
    files, strengths = len(flags["base_weights"] or []), len(flags["base_weights_multiplier"] or [])
    return {"files": files, "strengths": strengths} if strengths > files else {}


RULES: tuple[Rule, ...] = (
    Rule("model_missing", "--pretrained_model_name_or_path", lambda f: not f["pretrained_model_name_or_path"],
         "No base model was given.",
         "Add --pretrained_model_name_or_path with a model file (.safetensors), a diffusers folder or a hub id."),
    Rule("output_dir_missing", "--output_dir", lambda f: not f["output_dir"],
         "No output folder was given; the trained LoRA would have nowhere to go.",
         "Add --output_dir, for example --output_dir=lora_out."),
    Rule("data_missing", "--train_data_dir",
         lambda f: not (_pictures(f) or f["prompts_file"] or f["dataset_class"]) and f.script not in SAME_FLAGS,
         "No training pictures were given.",
         "Add --train_data_dir with the folder that holds folders such as 10_name, or --dataset_config with a TOML file."),
    Rule("data_missing", "--train_data_dir",
         lambda f: f["in_json"] and not f["train_data_dir"] and not f["dataset_config"],
         "--in_json lists the pictures, but the folder in which they lie was not given.", "Add --train_data_dir=folder."),
    Rule("prompts_file_missing", "--prompts_file", lambda f: f.script in SAME_FLAGS and not f["prompts_file"],
         "A text slider learns from a file of texts, and none was given.",
         "Add --prompts_file=slider.toml; docs/sliders.md shows such a file."),
    Rule("network_module_missing", "--network_module", lambda f: not f["network_module"] and {"module": DEFAULT_MODULE},
         "The kind of adapter was not given; {module} is trained, the usual LoRA.",
         "Add --network_module={module} to say so, or name another kind.", "note"),
    Rule("text_slider", "--network_train_text_encoder_only",
         lambda f: f["prompts_file"] and f["network_train_text_encoder_only"],
         "A text slider trains the image model alone, not the text encoder.", "Remove this flag."),
    Rule("text_slider", "--max_train_epochs", lambda f: f["prompts_file"] and f["max_train_epochs"] and not _pictures(f),
         "A text slider without pictures has no epochs, which are rounds through the pictures.",
         "Give the number of steps instead: --max_train_steps=500."),
    Rule("text_slider", "--text_slider_states", lambda f: f["text_slider_states"] == "leco" and _pictures(f),
         "leco makes its own half-denoised pictures, but with training pictures those are used.",
         "Remove this flag, or leave the pictures out."),
    Rule("option_needs", "--full_fp16", lambda f: f["full_fp16"] and f["mixed_precision"] != "fp16",
         "--full_fp16 works only with --mixed_precision=fp16 (now {mixed_precision}).",
         "Add --mixed_precision=fp16, or remove --full_fp16."),
    Rule("option_needs", "--full_bf16", lambda f: f["full_bf16"] and f["mixed_precision"] != "bf16",
         "--full_bf16 works only with --mixed_precision=bf16 (now {mixed_precision}).",
         "Add --mixed_precision=bf16, or remove --full_bf16."),
    Rule("option_needs", "--dim_from_weights", lambda f: f["dim_from_weights"] and not f["network_weights"],
         "--dim_from_weights takes the dim from a LoRA file, and none was given.",
         "Add --network_weights=file.safetensors, or give the dim itself with --network_dim."),
    Rule("option_needs", "--adaptive_noise_scale",
         lambda f: f["adaptive_noise_scale"] is not None and f["noise_offset"] is None,
         "--adaptive_noise_scale changes the noise offset, and none was given.",
         "Add --noise_offset=0.05, or remove --adaptive_noise_scale."),
    Rule("option_needs", "--resume_from_huggingface", lambda f: f["resume_from_huggingface"] and not f["resume"],
         "It was not said which saved state of the hub to go on from.", "Add --resume=user/repo/path."),
    Rule("option_needs", "--save_state_to_huggingface",
         lambda f: f["save_state_to_huggingface"] and not f["huggingface_repo_id"],
         "It was not said to which hub repository the states are uploaded.", "Add --huggingface_repo_id=user/name."),
    Rule("option_needs", "--save_state_to_huggingface",
         lambda f: f["save_state_to_huggingface"] and not (f["save_state"] or f["save_state_on_train_end"]),
         "--save_state_to_huggingface uploads saved states, but this run saves none.", "Add --save_state."),
    Rule("option_needs", "--save_without_ema", lambda f: f["save_without_ema"] and not f["ema_decay"],
         "--save_without_ema leaves out the averaged weights, but without --ema_decay there are none.",
         "Remove it, or add --ema_decay=0.999."),
    Rule("option_needs", "--sample_prompts",
         lambda f: not f["sample_prompts"]
         and bool(f["sample_every_n_steps"] or f["sample_every_n_epochs"] or f["sample_at_first"]),
         "Sample pictures are asked for, but no prompts to draw were given; none are drawn.",
         "Add --sample_prompts=prompts.txt, a text file with one prompt a line.", "warn"),
    Rule("both_only", "--network_train_unet_only",
         lambda f: f["network_train_unet_only"] and f["network_train_text_encoder_only"],
         "--network_train_unet_only and --network_train_text_encoder_only exclude each other.",
         "Remove one of the two, or both to train both."),
    Rule("nothing_trained", "--learning_rate", _trains_nothing,
         "Nothing would be trained: the learning rate of the image model is {unet}, that of the text encoder {text}.",
         "Set --unet_lr=1e-4 and, where the text encoder is to be trained, --text_encoder_lr=5e-5."),
    Rule("schedule_warmup", "--lr_warmup_steps", lambda f: _warms_up(f, "constant"),
         "The schedule \"constant\" has no warm-up, but --lr_warmup_steps is {lr_warmup_steps}.",
         "Use --lr_scheduler=constant_with_warmup, or set --lr_warmup_steps=0."),
    Rule("schedule_warmup", "--lr_warmup_steps", lambda f: _warms_up(f, "adafactor"),
         "The schedule \"{lr_scheduler}\" warms up by itself, but --lr_warmup_steps is {lr_warmup_steps}.",
         "Set --lr_warmup_steps=0."),
    Rule("optimizer_twice", "--optimizer_type", _several_optimizers,
         "More than one optimizer was given: {given}.", "Keep --optimizer_type alone."),
    Rule("latents_random", "--cache_latents", _changing,
         "Latents that are kept (--cache_latents) are made once, but {on} would change the pictures every time.",
         "Remove {on}, or --cache_latents."),
    Rule("cached_text_training", "--cache_text_encoder_outputs",
         lambda f: caches_text(f)
         and not f["network_train_unet_only"]
         and (bool(_rates(f)) or f["network_train_text_encoder_only"]),
         "A text encoder whose outputs are kept (--cache_text_encoder_outputs) cannot be trained, but its training was asked for "
         "(--text_encoder_lr is {text_encoder_lr}).",
         "Add --network_train_unet_only and remove --text_encoder_lr, or remove --cache_text_encoder_outputs."),
    Rule("cached_text_training", "--cache_text_encoder_outputs",
         lambda f: caches_text(f)
         and not f["network_train_unet_only"]
         and not (_rates(f) or f["network_train_text_encoder_only"]),
         "With --cache_text_encoder_outputs the text encoder is not trained, only the image model.",
         "Add --network_train_unet_only to say so; the result is the same.", "warn"),
    Rule("zero_snr", "--zero_terminal_snr",
         lambda f: f["zero_terminal_snr"] and "v_parameterization" in f and not f["v_parameterization"],
         "--zero_terminal_snr is meant for v-prediction models, and --v_parameterization is not on: the noisiest step teaches "
         "nothing then.",
         "Remove it, or add --v_parameterization if the model's page says v-prediction.", "warn"),
    Rule("timestep_range", "--min_timestep", lambda f: (f["min_timestep"] or 0) >= (f["max_timestep"] or 1000),
         "No time step (amount of noise, 0 to 1000) is left: --min_timestep is {min_timestep}, --max_timestep {max_timestep}.",
         "Give a --min_timestep that is below --max_timestep, or leave both out."),
    Rule("bucket_range", "--min_bucket_reso",
         lambda f: f["enable_bucket"]
         and f["min_bucket_reso"] > f["max_bucket_reso"]
         and not f["bucket_no_upscale"]
         and f.given("min_bucket_reso")
         and f.given("max_bucket_reso"),
         "--min_bucket_reso ({min_bucket_reso}) is larger than --max_bucket_reso ({max_bucket_reso}).",
         "Exchange the two numbers; 256 and 1024 are usual."),
    Rule("base_weights_count", "--base_weights_multiplier", _more_strengths,
         "{strengths:strength|strengths} for {files:file|files} of --base_weights: too many.",
         "Give one --base_weights_multiplier for each file."),
    Rule("clip_skip_range", "--clip_skip", lambda f: (f["clip_skip"] or 0) > 12,
         "The text encoder has 12 layers, so its last {clip_skip} cannot be skipped.",
         "Use --clip_skip=1 or 2 (2 for most anime models)."),
    Rule("ema_decay", "--ema_decay", lambda f: f["ema_decay"] is not None and not 0 <= f["ema_decay"] < 1,
         "--ema_decay is {ema_decay}; it tells how much of the average is kept at each step, so it lies between 0 and 1.",
         "Use 0.999 for long runs, 0.99 for short ones."),
    Rule("run_position", "--initial_step",
         lambda f: f["initial_step"] is not None and not f["max_train_epochs"] and f["initial_step"] >= f["max_train_steps"],
         "The run would begin at step {initial_step}, but it ends at step {max_train_steps} (--max_train_steps counts over the "
         "whole run).",
         "Raise --max_train_steps, or begin earlier."),
    Rule("run_position", "--initial_epoch", lambda f: f["initial_epoch"] is not None and f["initial_step"] is not None,
         "--initial_step was given too and decides; --initial_epoch is not used.", "Keep one of the two.", "note"),
    Rule("length_default", "--max_train_steps", lambda f: not f.given("max_train_steps") and not f["max_train_epochs"],
         "Neither steps nor epochs were given: the run ends after {max_train_steps} steps, the usual default.",
         "Set --max_train_epochs=10 or --max_train_steps=1000 to choose.", "note"),
    Rule("dataset_config_wins", "--dataset_config", _beside,
         "The pictures come from --dataset_config, which is used instead of {ignored:and}.",
         "Remove {ignored}, or --dataset_config.", "warn"),
    Rule("memory_savers", "--base_quantization",
         lambda f: bool(f["base_quantization"]) and (f["fp8_base"] or f["fp8_base_unet"]),
         "The model's weights can be kept in one small form only: fp8 (--fp8_base) or {base_quantization} "
         "(--base_quantization).",
         "Remove --fp8_base (and --fp8_base_unet), or --base_quantization."),
    Rule("memory_savers", "--fp8_scaled", lambda f: bool(f.maybe("fp8_scaled")) and f["base_quantization"] in ("nf4", "int8"),
         "The model's weights can be kept in one small form only: fp8 (--fp8_scaled) or {base_quantization} "
         "(--base_quantization).",
         "Remove --fp8_scaled or --base_quantization."),
    Rule("memory_savers", "--blocks_to_swap", lambda f: bool(f["blocks_to_swap"]) and f["torch_compile"],
         "Compiled blocks cannot leave the graphics card: --torch_compile and --blocks_to_swap exclude each other.",
         "Remove one of the two; keep --blocks_to_swap where memory is short."),
)


def judge(flags: Flags) -> Iterator[Problem]:
    """Every rule that is broken, every value out of its range and every flag that cannot be served as asked."""
    yield from out_of_range(flags)
    for rule in RULES:
        broken = rule.broken(flags)
        if broken:
            values = broken if isinstance(broken, Mapping) else {}
            what, remedy = (say(text, **_shown(text, flags, values)) for text in (rule.what, rule.remedy))
            yield Problem(rule.where, what, remedy, rule.severity, rule.name)
    for name in flags.changed():
        served = flags_of(flags.script)[name].served
        if served.kind == "stops":
            yield Problem(f"--{name}", "It cannot be honoured here.", served.text, check="not_served")
        elif served.kind == "otherwise":
            yield Problem(f"--{name}", say("It {text}", text=say(served.text)), "", "note", "not_served")


def _shown(template: str, flags: Flags, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a message names, as they may be shown."""
    names = [name for _, name, _, _ in Formatter().parse(template) if name]
    return {name: values[name] if name in values else _one(flags[name]) for name in names}


def _one(value: Any) -> Any:
    if value is None:
        return say("not given")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
