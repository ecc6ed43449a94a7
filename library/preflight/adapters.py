"""Adapters whose rates and sizes are others than LoRA's."""

from __future__ import annotations

from dataclasses import dataclass

from library.preflight.registry import Context


@dataclass(frozen=True)
class Usual:
    """What an adapter is trained with: rates of AdamW between which it learns without harm, and one to begin with."""

    title: str
    low: float
    high: float
    usual: str
    scaled: bool = True
    """Whether alpha / dim scales what it learns."""


USUAL = {
    "ia3": Usual("(IA)^3", 1e-3, 0.2, "1e-2", scaled=False),
    "oft": Usual("OFT", 1e-6, 1e-3, "3e-5", scaled=False),
    "diag-oft": Usual("diag-oft", 5e-6, 3e-3, "1e-4", scaled=False),
    "boft": Usual("BOFT", 1e-6, 1e-3, "3e-5", scaled=False),
    "full": Usual("full", 1e-6, 3e-4, "1e-5", scaled=False),
    "lokr": Usual("LoKr", 3e-5, 5e-3, "3e-4"),
}
"""Adapter -> its rates; all others are trained as LoRA is. The upper ends are what benchmarks/adapters.py found to harm the small
model of examples/; large models are trained at about a tenth of its rates."""


def usual_of(context: Context) -> Usual | None:
    """The adapter's row by its module's name or lycoris' ``algo``; None where it is trained as LoRA is."""
    words = [str(word).replace(" ", "").lower() for word in context.flag("network_args") or ()]
    algo = next((word.removeprefix("algo=") for word in words if word.startswith("algo=")), None)
    module = str(context.flag("network_module") or "").lower()
    kind = algo if module.startswith("lycoris") else module.removeprefix("networks.").removesuffix("_flux")
    return USUAL.get(kind or "")


def alpha_scales(context: Context) -> bool:
    """Whether alpha / dim scales what the adapter learns."""
    usual = usual_of(context)
    return usual is None or usual.scaled
