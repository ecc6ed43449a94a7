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
)
