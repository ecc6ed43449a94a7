"""Keys that front ends write into settings files although kohya has no such flag: explained, and mended where plain."""

from __future__ import annotations

from dataclasses import dataclass

from library.util.said import say


@dataclass(frozen=True)
class FrontKey:
    """What a front end's key means. With ``flag`` its value goes there unless one of ``unless`` is given."""

    text: str
    flag: str = ""
    unless: tuple[str, ...] = ()


def _moved(flag: str, *unless: str) -> FrontKey:
    return FrontKey(say("means {flag}", flag=flag), flag, (flag, *unless))


_GUI = FrontKey("a setting of the front end itself; it changes nothing in training")
_SAMPLES = FrontKey(
    "a setting of lora-scripts' sample pictures; write the prompts into a file and give it with sample_prompts"
)
_ARGS = FrontKey("means an entry of network_args", "network_args")

FRONT_KEYS: dict[str, FrontKey] = {
    "epoch": _moved("max_train_epochs", "max_train_steps"),
    "epochs": _moved("max_train_epochs", "max_train_steps"),
    "lr_restart_cycles": _moved("lr_scheduler_num_cycles"),
    "warmup_ratio": _moved("lr_warmup_steps"),
    "lr_warmup_ratio": _moved("lr_warmup_steps"),
    "lr_warmup_ratio_popup": _moved("lr_warmup_steps"),
    "learning_rate_te": _moved("text_encoder_lr"),
    "text_encoder_lr1": FrontKey("means the first entry of text_encoder_lr", "text_encoder_lr", ("text_encoder_lr",)),
    "text_encoder_lr2": FrontKey("means the second entry of text_encoder_lr", "text_encoder_lr", ("text_encoder_lr",)),
    "loraplus_lr_ratio": _ARGS,
    "loraplus_unet_lr_ratio": _ARGS,
    "loraplus_text_encoder_lr_ratio": _ARGS,
    "conv_dim": _ARGS,
    "conv_alpha": _ARGS,
    "noise_offset_type": FrontKey(
        "chooses in the GUI between noise_offset and multires noise; the flags themselves decide"
    ),
    "lowvram": FrontKey("is no flag; gradient_checkpointing and cache_latents save memory"),
    "train_text_encoder": FrontKey(
        "belongs to full fine-tuning; network_train_unet_only = true leaves the text encoders alone"
    ),
    "stop_text_encoder_training": FrontKey(
        "belongs to full fine-tuning; network_train_unet_only = true leaves the text encoders alone"
    ),
    "no_token_padding": FrontKey("belongs to full fine-tuning"),
    "use_safetensors": FrontKey('is an old form of save_model_as = "safetensors", which is the default'),
    "sdxl": FrontKey("tells the GUI which script to start; the model's kind is found from its file"),
    "LoRA_type": FrontKey("is the GUI's name of the adapter; network_module decides"),
    "save_toml": _GUI,
    "save_toml_location": _GUI,
    "save_as": _GUI,
    "headless": _GUI,
    "model_list": _GUI,
    "train_mode": _GUI,
    "model_train_type": _GUI,
    "use_wandb": _GUI,
    "gpu_ids": _GUI,
    "enable_preview": _GUI,
    "enable_base_weight": _GUI,
    "enable_block_weights": _GUI,
    "network_option_preset": _GUI,
    "shuffle_caption_enable": _GUI,
    "flux_model_preset": _GUI,
    "num_cpu_threads_per_process": FrontKey("belongs to accelerate launch"),
    "num_processes": FrontKey("belongs to accelerate launch"),
    "num_machines": FrontKey("belongs to accelerate launch"),
    "multi_gpu": FrontKey("belongs to accelerate launch"),
    "main_process_port": FrontKey("belongs to accelerate launch"),
    "dynamo_mode": FrontKey("belongs to accelerate launch"),
    "positive_prompts": _SAMPLES,
    "negative_prompts": _SAMPLES,
    "sample_width": _SAMPLES,
    "sample_height": _SAMPLES,
    "sample_cfg": _SAMPLES,
    "sample_seed": _SAMPLES,
    "sample_steps": _SAMPLES,
    "randomly_choice_prompt": _SAMPLES,
}

NETWORK_ARGS_KEYS = frozenset(name for name, key in FRONT_KEYS.items() if key.flag == "network_args")
TEXT_ENCODER_RATES = ("text_encoder_lr1", "text_encoder_lr2")
