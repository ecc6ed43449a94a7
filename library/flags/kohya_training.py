"""kohya's flags about the model, the adapter and how it is trained."""

from __future__ import annotations

from library.flags.flag import FAMILY, Flag, Number, group, otherwise

MODEL = group(
    "Model",
    Flag(
        "pretrained_model_name_or_path",
        help="Base model: a single file, a diffusers folder, a hub id or an https link.",
        path=True,
    ),
    Flag("v2", bool, False, "The base model is Stable Diffusion 2.x.", served=FAMILY),
    Flag("v_parameterization", bool, False, "The base model predicts v instead of noise.", served=FAMILY),
    Flag("vae", help="Another VAE: a file, a folder or a hub id.", path=True),
    Flag("no_half_vae", bool, False, "Run the VAE in full precision (cures invalid numbers from SDXL's VAE in fp16)."),
    Flag(
        "clip_skip",
        int,
        help="Take the text encoder's output this many layers before its end (2 for many anime models).",
    ),
    Flag("max_token_length", int, help="Longest caption in tokens; 75 where none is given.", choices=(None, 150, 225)),
    Flag(
        "tokenizer_cache_dir",
        help="Folder in which tokenizers are kept for use without a network.",
        path=True,
        served=otherwise(
            "concerns where tokenizers wait: CLIP's is part of this program, others come with the model or from the "
            "hub's own cache."
        ),
    ),
)

NETWORK = group(
    "Network (the LoRA)",
    Flag("network_module", help="Kind of adapter: networks.lora, networks.loha, lycoris.kohya, ..."),
    Flag(
        "network_dim",
        int,
        help="Rank of the adapter; the module's own default where none is given (4 for networks.lora).",
    ),
    Flag("network_alpha", float, 1, "Scale of the adapter: its output is multiplied by alpha / dim."),
    Flag("network_dropout", float, help="Chance of each inner value to be dropped in training, 0 to 1."),
    Flag(
        "network_args",
        many=True,
        help="Further settings of the module as name=value, for example conv_dim=4 conv_alpha=1.",
    ),
    Flag("network_weights", help="LoRA file to start from.", path=True),
    Flag("dim_from_weights", bool, False, "Take rank and alpha from --network_weights."),
    Flag("network_train_unet_only", bool, False, "Train the image model's part alone."),
    Flag("network_train_text_encoder_only", bool, False, "Train the text encoders' part alone."),
    Flag("scale_weight_norms", float, help="Scale weights down whose norm exceeds this (1 is a good start)."),
    Flag("base_weights", many=True, help="LoRA files merged into the base model before training.", path=True),
    Flag("base_weights_multiplier", float, many=True, help="Strengths of --base_weights, one each; 1 where missing."),
)

OPTIMIZER = group(
    "Optimizer",
    Flag(
        "optimizer_type",
        default="",
        help="AdamW, AdamW8bit, Lion, Prodigy, Adafactor, DAdaptAdam, ... or a dotted class path; AdamW where empty.",
    ),
    Flag(
        "optimizer_args",
        many=True,
        help="Further settings as name=value, for example weight_decay=0.01 betas=0.9,0.99.",
    ),
    Flag(
        "learning_rate",
        float,
        2e-06,
        "Learning rate of what has none of its own; kohya's default is far too low for a LoRA, 1e-4 is usual.",
    ),
    Flag("unet_lr", float, help="Learning rate of the image model's part."),
    Flag(
        "text_encoder_lr",
        float,
        many=True,
        help="Learning rate of the text encoders' part: one for all, or one for each.",
    ),
    Flag("max_grad_norm", float, 1.0, "Clip the gradient to this norm; 0 = never."),
    Flag("use_8bit_adam", bool, False, "Old spelling of --optimizer_type AdamW8bit."),
    Flag("use_lion_optimizer", bool, False, "Old spelling of --optimizer_type Lion."),
    Flag(
        "fused_backward_pass",
        bool,
        False,
        "Step each weight during the backward pass.",
        served=otherwise("saves the memory of full gradients; a LoRA's are small, so training goes on without it."),
    ),
)

SCHEDULE = group(
    "Learning rate schedule",
    Flag(
        "lr_scheduler",
        default="constant",
        help="constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, ...",
    ),
    Flag(
        "lr_scheduler_type", default="", help="A schedule of one's own as dotted class path; wins over --lr_scheduler."
    ),
    Flag("lr_scheduler_args", many=True, help="Its further settings as name=value."),
    Flag(
        "lr_warmup_steps",
        Number,
        0,
        "Steps in which the rate rises from 0: a number, or a part of all steps (0.05, 5%).",
    ),
    Flag("lr_decay_steps", Number, 0, "Steps in which the rate falls at the end: a number, or a part of all steps."),
    Flag("lr_scheduler_num_cycles", int, 1, "Restarts of cosine_with_restarts."),
    Flag("lr_scheduler_power", float, 1, "Power of the polynomial schedule."),
    Flag(
        "lr_scheduler_timescale",
        int,
        help="Time scale of the inverse_sqrt schedule; the warm-up steps where none is given.",
    ),
    Flag(
        "lr_scheduler_min_lr_ratio",
        float,
        help="Lowest rate as part of the learning rate, for schedules that end above 0.",
    ),
)

LENGTH = group(
    "Length and seed",
    Flag("max_train_steps", int, 1600, "Steps to train."),
    Flag("max_train_epochs", int, help="Epochs to train; wins over --max_train_steps."),
    Flag("gradient_accumulation_steps", int, 1, "Batches whose gradients are added up for one step."),
    Flag("seed", int, help="Seed of everything drawn at random; drawn and announced where none is given."),
)

LOSS = group(
    "Loss",
    Flag("loss_type", default="l2", help="Loss function.", choices=("l1", "l2", "huber", "smooth_l1")),
    Flag(
        "huber_schedule",
        default="snr",
        help="How the huber threshold follows the time step.",
        choices=("constant", "exponential", "snr"),
    ),
    Flag("huber_c", float, 0.1, "Huber threshold at the noisy end (exponential, snr) or everywhere (constant)."),
    Flag("huber_scale", float, 1.0, "Factor on the huber threshold."),
    Flag("prior_loss_weight", float, 1.0, "Weight of regularisation pictures."),
    Flag("min_snr_gamma", float, help="Weigh time steps by min(SNR, gamma)/SNR; 5 is usual."),
    Flag("debiased_estimation_loss", bool, False, "Weigh time steps by 1/sqrt(SNR)."),
    Flag(
        "scale_v_pred_loss_like_noise_pred",
        bool,
        False,
        "Weigh the loss of a v-predicting model as if it predicted noise.",
    ),
    Flag("v_pred_like_loss", float, help="Add the loss of a v-predicting model with this weight."),
)

NOISE = group(
    "Noise and time steps",
    Flag(
        "noise_offset",
        float,
        help="Shift each channel's noise by up to this, so that dark and bright pictures are learned (0.05 to 0.1).",
    ),
    Flag("noise_offset_random_strength", bool, False, "Draw the noise offset between 0 and --noise_offset each time."),
    Flag("adaptive_noise_scale", float, help="Add this times the latents' mean to the noise offset."),
    Flag("multires_noise_iterations", int, help="Add noise of this many coarser sizes (6 to 10)."),
    Flag("multires_noise_discount", float, 0.3, "Weight of each coarser size relative to the one before."),
    Flag("ip_noise_gamma", float, help="Disturb the noisy input by this much (0.1 is usual)."),
    Flag(
        "ip_noise_gamma_random_strength", bool, False, "Draw that disturbance between 0 and --ip_noise_gamma each time."
    ),
    Flag("zero_terminal_snr", bool, False, "Change the noise schedule so that its last step is noise alone."),
    Flag("min_timestep", int, help="First time step that is trained, 0 to 999."),
    Flag("max_timestep", int, help="End of the time steps that are trained, 1 to 1000."),
)

MEMORY = group(
    "Precision, memory and speed",
    Flag("mixed_precision", default="no", help="Number format of the computations.", choices=("no", "fp16", "bf16")),
    Flag("full_fp16", bool, False, "Gradients in fp16 too; needs --mixed_precision fp16."),
    Flag("full_bf16", bool, False, "Gradients in bf16 too; needs --mixed_precision bf16."),
    Flag("fp8_base", bool, False, "Keep the base model's weights in 8 bits; saves most with --gradient_checkpointing."),
    Flag("fp8_base_unet", bool, False, "Keep the image model's weights alone in 8 bits."),
    Flag(
        "gradient_checkpointing",
        bool,
        False,
        "Compute inner results twice instead of keeping them: slower, far less memory.",
    ),
    Flag("cpu_offload_checkpointing", bool, False, "Keep what checkpointing needs in main memory."),
    Flag("cache_latents", bool, False, "Encode the pictures once and keep the result in memory."),
    Flag("cache_latents_to_disk", bool, False, "Keep it in .npz files beside the pictures."),
    Flag("skip_cache_check", bool, False, "Trust those files without looking into them."),
    Flag("vae_batch_size", int, 1, "Pictures encoded at a time."),
    Flag("sdpa", bool, False, "Use torch's own attention (that is the default here)."),
    Flag("xformers", bool, False, "Use xformers' attention where it works, torch's own elsewhere."),
    Flag(
        "mem_eff_attn",
        bool,
        False,
        "Use kohya's slow attention for little memory.",
        served=otherwise(
            "concerns memory alone; torch's own attention is used, which needs no more memory and is faster."
        ),
    ),
    Flag(
        "lowram",
        bool,
        False,
        "Hold as little as possible in main memory while loading.",
        served=otherwise("concerns memory alone; model files are always mapped and go straight to their device."),
    ),
    Flag(
        "highvram",
        bool,
        False,
        "Do not empty the GPU's cache while latents are encoded.",
        served=otherwise("concerns speed alone; the GPU's cache is emptied once, after all latents are encoded."),
    ),
    Flag("torch_compile", bool, False, "Compile the model with torch.compile."),
    Flag(
        "dynamo_backend",
        default="inductor",
        help="Backend of torch.compile.",
        choices=(
            "eager",
            "aot_eager",
            "inductor",
            "aot_ts_nvfuser",
            "nvprims_nvfuser",
            "cudagraphs",
            "ofi",
            "fx2trt",
            "onnxrt",
            "tensort",
            "ipex",
            "tvm",
        ),
    ),
)

DISTRIBUTED = group(
    "Several GPUs",
    Flag("ddp_timeout", int, help="Minutes that processes wait for each other."),
    Flag(
        "ddp_gradient_as_bucket_view",
        bool,
        False,
        "DDP's option of that name (less memory).",
        served=otherwise("concerns DDP's memory alone; gradients are averaged here without DDP."),
    ),
    Flag(
        "ddp_static_graph",
        bool,
        False,
        "DDP's option of that name.",
        served=otherwise("concerns DDP's speed alone; gradients are averaged here without DDP."),
    ),
    Flag("deepspeed", bool, False, "Train with DeepSpeed; the following flags are its own."),
    Flag("zero_stage", int, 2, "ZeRO stage.", choices=(0, 1, 2, 3)),
    Flag("offload_optimizer_device", help="Where DeepSpeed keeps the optimizer.", choices=(None, "cpu", "nvme")),
    Flag("offload_optimizer_nvme_path", help="Its path on NVMe.", path=True),
    Flag("offload_param_device", help="Where DeepSpeed keeps weights (ZeRO stage 3).", choices=(None, "cpu", "nvme")),
    Flag("offload_param_nvme_path", help="Its path on NVMe.", path=True),
    Flag("zero3_init_flag", bool, False, "Set up the model under ZeRO stage 3."),
    Flag("zero3_save_16bit_model", bool, False, "Gather 16-bit weights for saving under ZeRO stage 3."),
    Flag("fp16_master_weights_and_gradients", bool, False, "Keep DeepSpeed's master weights and gradients in fp16."),
)

FLAGS = (*MODEL, *NETWORK, *OPTIMIZER, *SCHEDULE, *LENGTH, *LOSS, *NOISE, *MEMORY, *DISTRIBUTED)
