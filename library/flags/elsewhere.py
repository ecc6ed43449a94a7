"""Names that are typed although no entry script here takes them, and what to say about each."""

from __future__ import annotations

_OF_SCRIPTS = {
    "train_db.py": "use_safetensors learning_rate_te no_token_padding stop_text_encoder_training",
    "fine_tune.py": "diffusers_xformers train_text_encoder",
    "sdxl_train.py": "fused_optimizer_groups learning_rate_te1 learning_rate_te2 block_lr",
    "sd3_train.py": "skip_latents_validity_check blockwise_fused_optimizers learning_rate_te3 num_last_block_to_freeze "
    "train_t5xxl use_t5xxl_cache_only",
    "flux_train.py": "mem_eff_save double_blocks_to_swap single_blocks_to_swap",
    "train_textual_inversion.py": "weights init_word num_vectors_per_token token_string use_object_template "
    "use_style_template",
    "sdxl_train_control_net_lllite.py": "cond_emb_dim",
}
OTHER_SCRIPTS = {name: script for script, names in _OF_SCRIPTS.items() for name in names.split()}
"""Flags of kohya's other training scripts -> the script."""

ACCELERATE = frozenset(
    [
        "num_processes",
        "num_machines",
        "num_cpu_threads_per_process",
        "gpu_ids",
        "multi_gpu",
        "machine_rank",
        "main_process_ip",
        "main_process_port",
        "main_training_function",
        "dynamo_mode",
        "dynamo_use_fullgraph",
        "dynamo_use_dynamic",
        "use_deepspeed",
        "use_fsdp",
        "cpu",
        "quiet",
        "downcast_bf16",
        "rdzv_backend",
        "same_network",
        "enable_cpu_affinity",
    ]
)
"""Flags of ``accelerate launch``."""

INSTEAD = {
    "text_encoder_lr1": "Write both rates after one flag: --text_encoder_lr 1e-5 1e-5.",
    "text_encoder_lr2": "Write both rates after one flag: --text_encoder_lr 1e-5 1e-5.",
    "train_inpainting": "Training on inpainting models is not available here; use a text-to-image model without it.",
    "lora_network_weights": "Write --network_weights.",
    "lr_restart_cycles": "Write --lr_scheduler_num_cycles.",
    "warmup_ratio": "Write --lr_warmup_steps=0.05 (a part of all steps).",
    "conv_dim": "Write --network_args conv_dim=4 conv_alpha=1.",
    "conv_alpha": "Write --network_args conv_dim=4 conv_alpha=1.",
    "algo": "Write --network_module=lycoris.kohya --network_args algo=locon.",
    "loraplus_lr_ratio": "Write --network_args loraplus_lr_ratio=16.",
    "lr": "Write --learning_rate.",
    "epochs": "Write --max_train_epochs.",
    "num_epochs": "Write --max_train_epochs.",
    "num_train_epochs": "Write --max_train_epochs.",
    "steps": "Write --max_train_steps.",
    "rank": "Write --network_dim.",
    "dim": "Write --network_dim.",
    "alpha": "Write --network_alpha.",
    "batch_size": "Write --train_batch_size.",
    "model": "Write --pretrained_model_name_or_path.",
    "lowvram": "Use --gradient_checkpointing and --cache_latents to save memory.",
    "num_repeats": "Name the picture folders N_name (N = repeats), or use --dataset_config.",
    "class_tokens": "Name the picture folders N_name, or use --dataset_config.",
    "image_dir": "Write --train_data_dir (the folder above the N_name folders), or use --dataset_config.",
}
"""Names remembered from other programs, front ends and guides -> the way out."""
