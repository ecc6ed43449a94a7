"""Flags of slider training: where the slider sits, what its neutral pictures mean, in which order batches come."""

from __future__ import annotations

from library.flags.flag import Flag, group

FLAGS = group(
    "Sliders",
    Flag(
        "slider_lora_target",
        const="auto",
        ours=True,
        help="Put the LoRA on the layers that suit a slider and leave the text path alone; bare = auto, false = off.",
        choices=(
            "auto",
            "visual",
            "selfattn",
            "noxattn",
            "innoxattn",
            "xattn",
            "xattn-strict",
            "full",
            "simpletuner",
            "true",
            "false",
        ),
    ),
    Flag(
        "slider_neutral",
        default="anchor",
        choices=("plain", "anchor", "skip"),
        help="What neutral pictures teach: anchor = nothing may change at either end, plain = trained at strength 1, "
        "skip = they are left out.",
        ours=True,
    ),
    Flag(
        "slider_pairing",
        default="none",
        choices=("none", "filename"),
        help="filename = pictures of one name in the positive and the negative set share noise, timestep, crop and step.",
        ours=True,
    ),
    Flag(
        "slider_pair_goal",
        default="change",
        choices=("change", "pictures"),
        help="What pairs teach: change = the way from one picture to the other, for pictures that differ in that thing alone; "
        "pictures = each end its own picture, as without pairs (the only one with --slider_loss plain).",
        ours=True,
    ),
    Flag(
        "slider_balance",
        default="true",
        const="true",
        choices=("true", "false"),
        help="Go through the smaller side's pictures again, so that no epoch ends with one side alone.",
        ours=True,
    ),
    Flag(
        "slider_loss",
        default="scale_free",
        choices=("scale_free", "plain"),
        help="scale_free = noise levels count by the error of the clean picture, so that what strong noise decides (place, "
        "brightness, colour) is learned as fast as details; plain = as any other training.",
        ours=True,
    ),
    Flag(
        "slider_calibrate",
        default="true",
        const="true",
        choices=("true", "false"),
        help="Measure the finished slider and set its file's alpha so that strength 1 is what the pictures show.",
        ours=True,
    ),
    Flag(
        "prompts_file",
        path=True,
        ours=True,
        help="Texts of a slider (TOML, YAML or JSON, see docs/sliders.md): no pictures are needed, or they go along.",
    ),
    Flag(
        "attributes",
        ours=True,
        help='Words put in front of every prompt of --prompts_file in turn ("male, female"), so that the slider leaves '
        "them alone.",
    ),
    Flag(
        "text_slider_states",
        default="pool",
        choices=("pool", "leco"),
        ours=True,
        help="Noised pictures of a text slider: pool = drawn once by the base model, leco = denoised anew in every step, "
        "at the positive end alone (slow).",
    ),
    Flag("text_slider_pool", int, 64, "Pictures that the base model draws for a text slider.", ours=True),
    Flag(
        "max_denoising_steps",
        int,
        40,
        "Denoising steps of those pictures; a pool takes 20 at most.",
        ours=True,
    ),
    Flag("leco_denoise_guidance_scale", float, 3.0, "Guidance with which those pictures are drawn.", ours=True),
    Flag(
        "sample_adapter_strength",
        float,
        ours=True,
        help="Strength of the LoRA in sample pictures whose prompt names none.",
    ),
    Flag(
        "slider_sample_strengths",
        ours=True,
        help='Draw every sample prompt at these strengths, side by side in one picture: "-1,-0.5,0,0.5,1".',
    ),
)
