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
        "slider_balance",
        default="true",
        const="true",
        choices=("true", "false"),
        help="Go through the smaller side's pictures again, so that no epoch ends with one side alone.",
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
)
