"""kohya's flags that only some of its entry scripts take, and the defaults in which those scripts differ."""

from __future__ import annotations

from dataclasses import replace

from library.flags.flag import FAMILY, Flag, group, otherwise, stops
from library.flags.scripts import ANIMA, FLOW_SCRIPTS, FLUX, HUNYUAN, LATER_SCRIPTS, LUMINA, NETWORK, SD3, SDXL

SHIFTS = ("sigma", "uniform", "sigmoid", "shift", "flux_shift")
CURVES = ("nextdit_shift", "flux2_shift", "qwen_shift", "empirical_shift")
"""Further ways that single architectures know: Lumina 2, Flux.2, Qwen-Image, and Flux.2 as its pipeline draws."""
PLACE = otherwise("says where a part of the model waits; the program places the parts itself.")

PARTS = group(
    "Files of the model's parts",
    Flag("clip_l", help="File of the CLIP-L text encoder.", scripts=(SD3, FLUX), served=FAMILY, path=True),
    Flag("clip_g", help="File of the CLIP-G text encoder.", scripts=(SD3,), served=FAMILY, path=True),
    Flag("t5xxl", help="File of the T5-XXL text encoder.", scripts=(SD3, FLUX), served=FAMILY, path=True),
    Flag("ae", help="File of the autoencoder.", scripts=(FLUX, LUMINA), served=FAMILY, path=True),
    Flag("gemma2", help="File of the Gemma 2 text encoder.", scripts=(LUMINA,), served=FAMILY, path=True),
    Flag("text_encoder", help="File of the model's text encoder.", scripts=(HUNYUAN,), served=FAMILY, path=True),
    Flag("byt5", help="File of the byT5 text encoder.", scripts=(HUNYUAN,), served=FAMILY, path=True),
    Flag("qwen3", help="File of the Qwen3 text encoder.", scripts=(ANIMA,), served=FAMILY, path=True),
    Flag(
        "llm_adapter_path",
        help="File of the adapter between text encoder and model.",
        scripts=(ANIMA,),
        served=FAMILY,
        path=True,
    ),
    Flag("t5_tokenizer_path", help="Folder of the T5 tokenizer.", scripts=(ANIMA,), served=FAMILY, path=True),
    Flag(
        "controlnet_model_name_or_path",
        help="ControlNet for sample pictures.",
        scripts=(FLUX,),
        path=True,
        served=stops("Sample pictures cannot be drawn with a ControlNet here; leave the flag out."),
    ),
    Flag(
        "model_type",
        default="flux",
        help="Which of the models that share this script.",
        choices=("flux", "chroma"),
        scripts=(FLUX,),
        served=FAMILY,
    ),
    Flag(
        "disable_mmap_load_safetensors",
        bool,
        False,
        "Read model files whole instead of mapping them.",
        scripts=LATER_SCRIPTS,
        served=otherwise("concerns the speed of loading alone; files are mapped."),
    ),
)

TEXT = group(
    "Text encoders",
    Flag(
        "cache_text_encoder_outputs",
        bool,
        False,
        "Encode the captions once; the text encoders are then not trained.",
        scripts=LATER_SCRIPTS,
    ),
    Flag(
        "cache_text_encoder_outputs_to_disk",
        bool,
        False,
        "Keep the encoded captions in files beside the pictures.",
        scripts=LATER_SCRIPTS,
    ),
    Flag("text_encoder_batch_size", int, help="Captions encoded at a time while caching.", scripts=FLOW_SCRIPTS),
    Flag(
        "t5xxl_max_token_length",
        int,
        help="Longest caption in T5 tokens.",
        scripts=(SD3, FLUX),
        served=FAMILY,
        columns={SD3: {"default": 256}},
    ),
    Flag("t5_max_token_length", int, 512, "Longest caption in T5 tokens.", scripts=(ANIMA,), served=FAMILY),
    Flag("qwen3_max_token_length", int, 512, "Longest caption in Qwen3 tokens.", scripts=(ANIMA,), served=FAMILY),
    Flag(
        "gemma2_max_token_length",
        int,
        help="Longest caption in Gemma tokens; 256 where none is given.",
        scripts=(LUMINA,),
        served=FAMILY,
    ),
    Flag(
        "apply_t5_attn_mask",
        bool,
        False,
        "Hide the padding of captions: from T5's layers with SD3, from the model, too, with Flux.1 and Chroma (always so).",
        scripts=(SD3, FLUX),
        served=FAMILY,
    ),
    Flag(
        "apply_lg_attn_mask",
        bool,
        False,
        "Hide the padding of captions from CLIP's layers.",
        scripts=(SD3,),
        served=FAMILY,
    ),
    Flag(
        "clip_l_dropout_rate",
        float,
        0.0,
        "Chance that a caption trains without CLIP-L's output.",
        scripts=(SD3,),
        served=FAMILY,
    ),
    Flag(
        "clip_g_dropout_rate",
        float,
        0.0,
        "Chance that a caption trains without CLIP-G's output.",
        scripts=(SD3,),
        served=FAMILY,
    ),
    Flag(
        "t5_dropout_rate",
        float,
        0.0,
        "Chance that a caption trains without T5's output.",
        scripts=(SD3,),
        served=FAMILY,
    ),
    Flag(
        "t5xxl_dtype",
        help="Number format of T5.",
        scripts=(SD3,),
        served=otherwise("has no effect in kohya's script either; T5 has the run's own precision."),
    ),
    Flag("t5xxl_device", help="Device of T5.", scripts=(SD3,), served=PLACE),
    Flag("text_encoder_cpu", bool, False, "Run the text encoders on the CPU.", scripts=(HUNYUAN,), served=PLACE),
    Flag("fp8_vl", bool, False, "Keep the (first) text encoder in 8 bits.", scripts=(HUNYUAN,)),
    Flag(
        "system_prompt",
        default="",
        help="Text put in front of every caption for the text encoder.",
        scripts=(LUMINA,),
        served=FAMILY,
    ),
    Flag(
        "save_clip",
        bool,
        False,
        "Save the CLIP encoders too.",
        scripts=(SD3,),
        served=otherwise("belongs to full training; a LoRA file never holds the base model's text encoders."),
    ),
    Flag(
        "save_t5xxl",
        bool,
        False,
        "Save T5 too.",
        scripts=(SD3,),
        served=otherwise("belongs to full training; a LoRA file never holds the base model's text encoders."),
    ),
)

FLOW = group(
    "Flow matching",
    Flag(
        "timestep_sampling",
        default="sigma",
        help="How time steps are drawn.",
        choices=SHIFTS,
        scripts=(FLUX, HUNYUAN, ANIMA, LUMINA),
        served=FAMILY,
        columns={
            ANIMA: {"default": "sigmoid"},
            LUMINA: {"default": "shift", "choices": (*SHIFTS[:4], "nextdit_shift", SHIFTS[4])},
        },
    ),
    Flag(
        "sigmoid_scale",
        float,
        1.0,
        "Spread of sigmoid time-step sampling.",
        scripts=(FLUX, LUMINA, HUNYUAN, ANIMA),
        served=FAMILY,
    ),
    Flag(
        "discrete_flow_shift",
        float,
        3.0,
        "Shift of the time steps towards noise.",
        scripts=(FLUX, LUMINA, HUNYUAN, ANIMA),
        served=FAMILY,
        columns={LUMINA: {"default": 6.0}, HUNYUAN: {"default": 5.0}, ANIMA: {"default": 1.0}},
    ),
    Flag("training_shift", float, 1.0, "Shift of the time steps towards noise.", scripts=(SD3,), served=FAMILY),
    Flag(
        "weighting_scheme",
        default="uniform",
        help="How time steps are drawn and weighed.",
        scripts=FLOW_SCRIPTS,
        served=FAMILY,
        choices=("sigma_sqrt", "logit_normal", "mode", "cosmap", "none", "uniform"),
    ),
    Flag("logit_mean", float, 0.0, "Mean of the logit_normal scheme.", scripts=FLOW_SCRIPTS, served=FAMILY),
    Flag(
        "logit_std", float, 1.0, "Standard deviation of the logit_normal scheme.", scripts=FLOW_SCRIPTS, served=FAMILY
    ),
    Flag("mode_scale", float, 1.29, "Scale of the mode scheme.", scripts=FLOW_SCRIPTS, served=FAMILY),
    Flag(
        "model_prediction_type",
        default="sigma_scaled",
        help="What the model's output is taken for.",
        scripts=(FLUX, LUMINA, HUNYUAN),
        choices=("raw", "additive", "sigma_scaled"),
        served=FAMILY,
        columns={LUMINA: {"default": "raw"}, HUNYUAN: {"default": "raw"}},
    ),
    Flag(
        "guidance_scale", float, 3.5, "Guidance value given to the model in training.", scripts=(FLUX,), served=FAMILY
    ),
    Flag(
        "pos_emb_random_crop_rate",
        float,
        0.0,
        "Chance that a batch takes its positions from any place of the table, not its middle (SD 3.5 medium).",
        scripts=(SD3,),
        served=FAMILY,
    ),
    Flag(
        "enable_scaled_pos_embed",
        bool,
        False,
        "Scale the positions to the resolution that a picture is trained at (SD 3.5 medium, several resolutions).",
        scripts=(SD3,),
        served=FAMILY,
    ),
)

RATES = group(
    "Learning rates by part",
    Flag(
        "self_attn_lr",
        float,
        help="Learning rate of the self-attention layers' adapters; 0 leaves them untrained.",
        scripts=(ANIMA,),
    ),
    Flag("cross_attn_lr", float, help="The same of cross-attention.", scripts=(ANIMA,)),
    Flag("mlp_lr", float, help="The same of the feed-forward layers.", scripts=(ANIMA,)),
    Flag(
        "mod_lr",
        float,
        help="The same of the modulation layers, which carry adapters with --slider_lora_target=full.",
        scripts=(ANIMA,),
    ),
    Flag(
        "llm_adapter_lr",
        float,
        help="The same of the text adapter, which carries adapters with --network_args train_llm_adapter=True.",
        scripts=(ANIMA,),
    ),
)

SAVERS = group(
    "Memory of large models",
    Flag(
        "blocks_to_swap",
        int,
        help="So many blocks of the frozen model wait in main memory and visit the GPU one by one; slower, much less "
        "memory. Switches gradient checkpointing on.",
        columns={NETWORK: {"ours": True}, SDXL: {"ours": True}},
    ),
    Flag(
        "split_mode",
        bool,
        False,
        "Train the two halves of the model one after the other.",
        scripts=(FLUX,),
        served=otherwise("concerns memory alone; the model is not split."),
    ),
    Flag(
        "fp8_scaled",
        bool,
        False,
        "Keep the linear layers of the model's blocks in 8 bits with a scale for every row (--base_quantization=fp8).",
        scripts=(HUNYUAN,),
    ),
    Flag(
        "attn_mode",
        help="Kind of attention.",
        scripts=(HUNYUAN, ANIMA),
        choices=("torch", "xformers", "flash", "sageattn", "sdpa"),
    ),
    Flag(
        "split_attn",
        bool,
        False,
        "Compute attention picture by picture.",
        scripts=(HUNYUAN, ANIMA),
        served=otherwise("concerns memory alone; attention is computed for the whole batch."),
    ),
    Flag("use_flash_attn", bool, False, "Use flash attention.", scripts=(LUMINA,)),
    Flag(
        "use_sage_attn",
        bool,
        False,
        "Use sage attention.",
        scripts=(LUMINA,),
        served=otherwise("has no backward pass; torch's own attention is used."),
    ),
    Flag(
        "unsloth_offload_checkpointing",
        bool,
        False,
        "Keep what checkpointing needs in main memory.",
        scripts=(ANIMA,),
        served=otherwise("concerns memory alone; --cpu_offload_checkpointing is what works here."),
    ),
    Flag(
        "vae_chunk_size",
        int,
        help="Part of a picture that the VAE handles at a time.",
        scripts=(HUNYUAN, ANIMA),
        served=otherwise("concerns memory alone; the VAE handles pictures whole."),
    ),
    Flag(
        "vae_disable_cache",
        bool,
        False,
        "Turn the VAE's frame cache off.",
        scripts=(ANIMA,),
        served=otherwise("concerns memory alone; the cache is never used for single pictures."),
    ),
    Flag(
        "sample_batch_size",
        int,
        help="Sample pictures drawn at a time.",
        scripts=(LUMINA,),
        served=otherwise("concerns speed alone; the program chooses the number itself."),
    ),
)

OF_EVERY_MODEL = frozenset({
    "clip_l", "clip_g", "t5xxl", "ae", "gemma2", "qwen3", "byt5", "llm_adapter_path", "t5_tokenizer_path",
    "t5_max_token_length", "cache_text_encoder_outputs",
    "cache_text_encoder_outputs_to_disk", "timestep_sampling", "sigmoid_scale", "discrete_flow_shift",
    "model_prediction_type", "weighting_scheme", "logit_mean", "logit_std", "mode_scale", "training_shift", "guidance_scale",
    "t5xxl_max_token_length", "gemma2_max_token_length", "qwen3_max_token_length", "system_prompt", "apply_t5_attn_mask",
    "apply_lg_attn_mask", "clip_l_dropout_rate", "clip_g_dropout_rate", "t5_dropout_rate", "pos_emb_random_crop_rate",
    "enable_scaled_pos_embed", "fp8_vl", "fp8_scaled", "self_attn_lr", "cross_attn_lr", "mlp_lr", "mod_lr", "llm_adapter_lr",
})  # fmt: skip
"""Flags that kohya's first script lacks and ours takes too, because it trains every architecture."""

HERE = {"timestep_sampling": {"choices": (*SHIFTS, *CURVES)}}
"""In which fields they differ in the first script, besides having no default."""


def _for_every_model(flag: Flag) -> Flag:
    """The same flag for the first script as well, without a default: the model's architecture has its own."""
    if flag.name not in OF_EVERY_MODEL:
        return flag
    default = False if flag.is_switch else None
    here = {NETWORK: {"ours": True, "default": default, **HERE.get(flag.name, {})}}
    return replace(flag, scripts=(NETWORK, *flag.scripts), columns={**flag.columns, **here})


FLAGS = tuple(_for_every_model(flag) for flag in (*PARTS, *TEXT, *FLOW, *RATES, *SAVERS))
