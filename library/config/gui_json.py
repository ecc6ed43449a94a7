"""Presets of the kohya_ss GUI (.json): its own names and empty values turned into the flags that it would write.

The GUI leaves out every value that is "", false or 0, so that kohya's default holds; it names the adapter by a kind of
its own (``LoRA_type``) and puts that kind's settings beside the flags.
"""

from __future__ import annotations

import shlex
from typing import Any

from library.flags import BY_NAME, collect
from library.util.records import Problem
from library.util.said import say

RENAMED = {
    "optimizer": "optimizer_type",
    "max_resolution": "resolution",
    "lora_network_weights": "network_weights",
    "text_encoder_learning_rate": "text_encoder_lr",
    "unet_learning_rate": "unet_lr",
    "t5xxl_lr": "",
    "stop_text_encoder_training_pct": "",
    "additional_parameters": "",
    "lr_warmup": "",
    "noise_offset_type": "",
}
"""GUI's name -> flag; "" = handled by a rule of its own or meant for the GUI alone."""

FOR_KINDS = {
    "sdxl": {"sdxl_no_half_vae": "no_half_vae", "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs"},
    "flux1_checkbox": {
        "flux1_cache_text_encoder_outputs": "cache_text_encoder_outputs",
        "flux1_cache_text_encoder_outputs_to_disk": "cache_text_encoder_outputs_to_disk",
        "flux1_t5xxl": "t5xxl",
        "flux1_clip_l": "clip_l",
    },
    "sd3_checkbox": {
        "sd3_cache_text_encoder_outputs": "cache_text_encoder_outputs",
        "sd3_clip_l": "clip_l",
        "sd3_t5xxl": "t5xxl",
        "sd3_cache_text_encoder_outputs_to_disk": "cache_text_encoder_outputs_to_disk",
        "sd3_text_encoder_batch_size": "text_encoder_batch_size",
        "sd3_clip_l_dropout_rate": "clip_l_dropout_rate",
        "sd3_t5_dropout_rate": "t5_dropout_rate",
        "sd3_enable_scaled_pos_embed": "enable_scaled_pos_embed",
    },
}
"""The GUI's tick for a kind of model -> its settings that count only under that tick, and their flags."""

_BLOCKS = (
    "down_lr_weight",
    "mid_lr_weight",
    "up_lr_weight",
    "block_lr_zero_threshold",
    "block_dims",
    "block_alphas",
    "conv_block_dims",
    "conv_block_alphas",
    "rank_dropout",
    "module_dropout",
)
_LYCORIS = (
    "conv_dim",
    "conv_alpha",
    "rank_dropout",
    "module_dropout",
    "use_tucker",
    "rank_dropout_scale",
    "train_norm",
)
_WEIGHTS = (*_LYCORIS, "bypass_mode", "dora_wd", "use_scalar")
_FLUX = (
    "img_attn_dim",
    "img_mlp_dim",
    "img_mod_dim",
    "single_dim",
    "txt_attn_dim",
    "txt_mlp_dim",
    "txt_mod_dim",
    "single_mod_dim",
    "in_dims",
    "train_double_block_indices",
    "train_single_block_indices",
    "split_qkv",
    "train_t5xxl",
)
KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "Standard": ("networks.lora", "", _BLOCKS),
    "Kohya LoCon": ("networks.lora", "", ("conv_dim", "conv_alpha", *_BLOCKS)),
    "LoRA-FA": ("networks.lora_fa", "", _BLOCKS),
    "Kohya DyLoRA": ("networks.dylora", "", ("conv_dim", "conv_alpha", *_BLOCKS, "unit")),
    "Flux1": ("networks.lora_flux", "", _FLUX),
    "Flux1 OFT": ("networks.oft_flux", "", ("enable_all_linear",)),
    "LoCon": ("lycoris.kohya", "locon", _WEIGHTS),
    "LyCORIS/LoCon": ("lycoris.kohya", "locon", _WEIGHTS),
    "LyCORIS/LoHa": ("lycoris.kohya", "loha", _WEIGHTS),
    "LyCORIS/LoKr": ("lycoris.kohya", "lokr", (*_WEIGHTS, "factor", "use_cp", "decompose_both")),
    "LyCORIS/iA3": ("lycoris.kohya", "ia3", ("conv_dim", "conv_alpha", "train_on_input")),
    "LyCORIS/DyLoRA": ("lycoris.kohya", "dylora", (*_LYCORIS, "unit")),
    "LyCORIS/GLoRA": ("lycoris.kohya", "glora", _LYCORIS),
    "LyCORIS/Diag-OFT": ("lycoris.kohya", "diag-oft", (*_LYCORIS, "constrain", "rescaled")),
    "LyCORIS/BOFT": ("lycoris.kohya", "boft", _LYCORIS),
    "LyCORIS/Native Fine-Tuning": (
        "lycoris.kohya",
        "full",
        ("rank_dropout", "module_dropout", "rank_dropout_scale", "train_norm"),
    ),
}
"""LoRA_type -> (module, algorithm, keys that become network_args)."""
ARG_NAMES = {"constrain": "constraint"}
NETWORK_KEYS = frozenset(key for _, _, keys in KINDS.values() for key in keys)
TURNED_OFF = ("", False, None, 0, "0", "none", "None")
KEEP_ZERO = ("max_data_loader_n_workers",)


def is_gui_preset(data: dict[str, Any]) -> bool:
    """Whether a JSON is a preset of the kohya_ss GUI for LoRA training."""
    return "LoRA_type" in data


def from_gui(data: dict[str, Any], name: str, notes: list[Problem]) -> dict[str, Any]:
    """The preset as kohya's flags. What could not be taken over goes to ``notes``; unknown keys stay in it."""
    found = _flags(data)
    found |= _network(data, name, notes)
    found |= _noise(data)
    found |= _rates(data)
    found |= _warmup(data)
    found |= _additional(str(data.get("additional_parameters") or ""), name, notes)
    prompts = str(found.get("sample_prompts", ""))
    if "\n" in prompts.strip() or " --" in prompts:
        del found["sample_prompts"]
        notes.append(
            Problem(
                name,
                "sample_prompts holds the prompts themselves.",
                "Write them into a file, one a line, and give it with "
                "--sample_prompts; no samples are drawn otherwise.",
                "warn",
                "settings",
            )
        )
    return found


def _flags(data: dict[str, Any]) -> dict[str, Any]:
    """Settings that are flags under the same or another name, without those that are off."""
    ticked = {gui: flag for tick, names in FOR_KINDS.items() for gui, flag in names.items() if _on(data.get(tick))}
    own = {gui for names in FOR_KINDS.values() for gui in names} | set(FOR_KINDS)
    found: dict[str, Any] = {}
    for key, value in data.items():
        flag = ticked.get(key) or RENAMED.get(key, key)
        if (
            (key in own and key not in ticked)
            or not flag
            or key in NETWORK_KEYS
            or key in ("LoRA_type", "LyCORIS_preset", "xformers")
        ):
            continue
        if value in TURNED_OFF and flag not in KEEP_ZERO:
            continue
        if flag == "optimizer_args" or flag == "lr_scheduler_args":
            value = str(value).replace('"', "").split()
        if flag in BY_NAME and BY_NAME[flag].scripts and not _any_kind(data) and key not in ticked:
            continue
        found[flag] = value
    if data.get("xformers") in ("xformers", True):
        found["xformers"] = True
    elif data.get("xformers") == "sdpa":
        found["sdpa"] = True
    return found


def _on(value: Any) -> bool:
    return value not in TURNED_OFF and str(value).lower() != "false"


def _any_kind(data: dict[str, Any]) -> bool:
    return any(_on(data.get(tick)) for tick in FOR_KINDS)


def _network(data: dict[str, Any], name: str, notes: list[Problem]) -> dict[str, Any]:
    kind = str(data.get("LoRA_type") or "Standard")
    if kind not in KINDS:
        notes.append(
            Problem(
                name,
                say('LoRA_type "{kind}" is not known.', kind=kind),
                "networks.lora is used; give --network_module to choose another.",
                "warn",
                "settings",
            )
        )
    module, algorithm, keys = KINDS.get(kind, KINDS["Standard"])
    args = [f"algo={algorithm}", f"preset={data.get('LyCORIS_preset') or 'full'}"] if algorithm else []
    wanted = {key: data[key] for key in keys if key in data and data[key] not in TURNED_OFF}
    args += [
        f"{ARG_NAMES.get(key, 'block_size' if key == 'unit' and algorithm else key)}={value}"
        for key, value in wanted.items()
    ]
    return {"network_module": module, "network_args": args}


def _noise(data: dict[str, Any]) -> dict[str, Any]:
    """The GUI's choice between the two kinds of noise: the other kind's settings do not count."""
    multires = data.get("noise_offset_type", "Original") == "Multires"
    off = (
        ("noise_offset", "adaptive_noise_scale", "noise_offset_random_strength")
        if multires
        else ("multires_noise_iterations", "multires_noise_discount")
    )
    return dict.fromkeys((key for key in off if key in data), "")


def _rates(data: dict[str, Any]) -> dict[str, Any]:
    """Which part is trained follows in the GUI from the rates that are not 0."""
    text, unet, t5 = (float(data.get(key) or 0) for key in ("text_encoder_lr", "unet_lr", "t5xxl_lr"))
    found: dict[str, Any] = {"text_encoder_lr": [text, t5 or text]} if text else {}
    return found | {
        "network_train_unet_only": not text and bool(unet),
        "network_train_text_encoder_only": bool(text) and not unet,
    }


def _warmup(data: dict[str, Any]) -> dict[str, Any]:
    """``lr_warmup`` is in percent of all steps, lr_warmup_steps wins over it; a constant rate has no warm-up."""
    steps, percent = float(data.get("lr_warmup_steps") or 0), float(data.get("lr_warmup") or 0)
    if str(data.get("lr_scheduler")) == "constant":
        return {"lr_warmup_steps": 0}
    return {"lr_warmup_steps": int(steps) if steps else percent / 100}


def _additional(text: str, name: str, notes: list[Problem]) -> dict[str, Any]:
    """The GUI's box for further flags, read like a command line."""
    if not text.strip():
        return {}
    flags, problems = collect(shlex.split(text.replace("\\", "\\\\")))
    notes += [
        Problem(name, say("additional_parameters: {where} {what}", where=one.where, what=one.what), one.remedy, "warn", "settings")
        for one in problems
    ]
    return {key: flags[key] for key in flags.origins}
