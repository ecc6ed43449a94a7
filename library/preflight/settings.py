"""Advice about settings that are known to disappoint. Nothing here stops a run but what the optimizer itself refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from library.preflight.adapters import alpha_scales, usual_of
from library.preflight.options import optimizer_name, text_rates
from library.preflight.registry import Context, check
from library.util.records import Problem

DEFAULT_RATE = 2e-6
"""kohya's default learning rate, which shows no effect in a LoRA."""


@dataclass(frozen=True)
class Rates:
    """The learning rates that will be used: of the image model and of the text encoders; None = not trained."""

    unet: float | None
    text: tuple[float, ...]

    @property
    def all(self) -> tuple[float, ...]:
        return tuple(r for r in (self.unet, *self.text) if r)


def rates(context: Context) -> Rates:
    """Work out the rates from the three flags and the two "only" switches."""
    base = float(context.flag("learning_rate") or 0.0)
    unet = base if context.flag("unet_lr") is None else float(context.flag("unet_lr"))
    text = tuple(float(r) for r in text_rates(context)) or (base,)
    cached = context.flag("cache_text_encoder_outputs") or context.flag("cache_text_encoder_outputs_to_disk")
    return Rates(
        None if context.flag("network_train_text_encoder_only") else unet,
        () if context.flag("network_train_unet_only") or cached else text,
    )


@dataclass(frozen=True)
class Kind:
    """Highest sensible rates of a kind of optimizer, for the image model and for text encoders."""

    unet: float
    text: float
    usual: str
    """What is usual for the image model, as one would type it."""


ORDINARY = Kind(1.01e-3, 4.01e-4, "1e-4")
KINDS = {
    "lion": Kind(3.01e-4, 1.01e-4, "3e-5"),
    "sgd": Kind(1e3, 1e3, "1"),
    "adafactor": Kind(2e-3, 1e-3, "1e-4"),
    "adadelta": Kind(10.0, 10.0, "1"),
    "rprop": Kind(0.1, 0.1, "1e-3"),
    "adagrad": Kind(0.1, 0.1, "1e-2"),
}
"""Beginning of the optimizer's name -> its rates; all others count as AdamW."""


def finds_its_rate(name: str) -> bool:
    """Tell whether an optimizer finds the step size itself (Prodigy, D-Adaptation)."""
    last = name.rsplit(".", 1)[-1].lower()
    return last.startswith(("prodigy", "dadapt"))


def kind_of(name: str) -> Kind:
    """Look a kind up by the optimizer's name."""
    last = name.rsplit(".", 1)[-1].lower().removeprefix("paged")
    return next((kind for start, kind in KINDS.items() if last.startswith(start)), ORDINARY)


@check("rate_default", level="words", row="F24")
def check_default_rate(context: Context) -> Iterator[Problem]:
    """Without any learning rate kohya's default holds, which is far too low."""
    given = any(context.flag(n) is not None and context.given(n) for n in ("learning_rate", "unet_lr", "text_encoder_lr"))
    if not given and context.flag("learning_rate") == DEFAULT_RATE and not finds_its_rate(optimizer_name(context)):
        yield context.warn("rate_default", "--learning_rate")


@check("rate_high", level="words", row="F12")
def check_high_rate(context: Context) -> Iterator[Problem]:
    """A learning rate beyond what the optimizer stands."""
    name, used = optimizer_name(context), rates(context)
    kind = kind_of(name)
    if finds_its_rate(name) or context.flag("scale_weight_norms") or _relative_steps(context):
        return
    if kind is ORDINARY and usual_of(context) is not None:
        yield from _adapters_rate(context, used.unet)
        return
    strength = _alpha_part(context)
    if used.unet is not None and used.unet > kind.unet and not (strength <= 0.05 and used.unet <= 10 * kind.unet):
        yield context.warn(
            "rate_high",
            "--unet_lr" if context.flag("unet_lr") is not None else "--learning_rate",
            rate=f"{used.unet:g}",
            name=name,
            usual=kind.usual,
        )
    elif used.text and max(used.text) > max(kind.text, used.unet or 0.0):
        yield context.warn("rate_high.text", "--text_encoder_lr", rate=f"{max(used.text):g}")


def _adapters_rate(context: Context, rate: float | None) -> Iterator[Problem]:
    """A rate far from what a kind of adapter is trained with, which is not LoRA's."""
    usual = usual_of(context)
    if usual is not None and rate and not usual.low / 1.01 <= rate <= usual.high * 1.01:
        yield context.warn("rate_high.adapter", "--unet_lr" if context.flag("unet_lr") is not None else "--learning_rate",
                           rate=f"{rate:g}", adapter=usual.title, low=f"{usual.low:g}", high=f"{usual.high:g}",
                           usual=usual.usual)


def _relative_steps(context: Context) -> bool:
    """Adafactor chooses its rate itself unless told otherwise."""
    words = " ".join(str(w) for w in context.flag("optimizer_args") or ()).replace(" ", "").lower()
    return optimizer_name(context).lower() == "adafactor" and "relative_step=false" not in words


def _alpha_part(context: Context) -> float:
    """alpha / dim, the factor on the adapter's output; 1 where either is unknown or it has no such factor."""
    if not alpha_scales(context):
        return 1.0
    dim, alpha = context.flag("network_dim") or 4, context.flag("network_alpha")
    return float(alpha) / float(dim) if alpha else 1.0


@check("rate_alpha", level="words", row="F12")
def check_rate_and_alpha(context: Context) -> Iterator[Problem]:
    """A high rate together with alpha = dim at a high rank diverges."""
    name, used = optimizer_name(context), rates(context)
    dim = context.flag("network_dim") or 4
    if finds_its_rate(name) or _relative_steps(context) or used.unet is None or not context.given("network_alpha"):
        return
    if dim >= 32 and _alpha_part(context) >= 0.5 and 5e-4 < used.unet <= kind_of(name).unet:
        yield context.warn(
            "rate_alpha", "--network_alpha", dim=dim, alpha=f"{context.flag('network_alpha'):g}", rate=f"{used.unet:g}"
        )
    elif dim >= 64 and 0 < _alpha_part(context) <= 0.02 and used.unet > 5e-4:
        yield context.warn(
            "rate_alpha.noise", "--learning_rate", dim=dim, alpha=f"{context.flag('network_alpha'):g}", rate=f"{used.unet:g}"
        )


@check("rate_low", level="words", row="F24")
def check_low_rate(context: Context) -> Iterator[Problem]:
    """A learning rate from which nothing will be seen."""
    used, name = rates(context), optimizer_name(context)
    highest = max(used.all, default=0.0)
    chosen = any(context.given(n) for n in ("learning_rate", "unet_lr", "text_encoder_lr"))
    if chosen and 0 < highest < 1e-5 and usual_of(context) is None and not finds_its_rate(name) and not _relative_steps(context):
        yield context.warn("rate_low", "--learning_rate", rate=f"{highest:g}", name=name)


@check("effect_small", level="words", row="F24")
def check_small_effect(context: Context) -> Iterator[Problem]:
    """alpha / dim scales the effect down; with a low rate nothing is left."""
    part, highest = _alpha_part(context), max(rates(context).all, default=0.0)
    if finds_its_rate(optimizer_name(context)) or not highest or _relative_steps(context):
        return
    if part * highest < 1e-6 and highest >= 1e-5:
        yield context.warn(
            "effect_small",
            "--network_alpha",
            alpha=f"{context.flag('network_alpha'):g}",
            dim=context.flag("network_dim") or 4,
            part=f"{part:.3g}",
            rate=f"{highest:g}",
        )


@check("alpha_over_dim", level="words", row="F12")
def check_alpha(context: Context) -> Iterator[Problem]:
    """alpha above dim multiplies the effect and the risk of noise."""
    if context.flag("network_dim") and _alpha_part(context) > 1:
        yield context.warn(
            "alpha_over_dim",
            "--network_alpha",
            alpha=f"{context.flag('network_alpha'):g}",
            dim=context.flag("network_dim"),
            part=f"{_alpha_part(context):.3g}",
        )


@check("alpha_default", level="words", row="F24")
def check_alpha_default(context: Context) -> Iterator[Problem]:
    """The default alpha of 1 weakens a high rank."""
    dim = context.flag("network_dim") or 4
    if (
        not context.given("network_alpha")
        and context.flag("network_alpha") == 1
        and dim >= 8
        and alpha_scales(context)
        and not context.flag("network_weights")
    ):
        yield context.note("alpha_default", "--network_alpha", dim=dim)


@check("dim_large", level="words", row="F12")
def check_large_dim(context: Context) -> Iterator[Problem]:
    """A very high rank makes large files and over-fits."""
    dim = context.flag("network_dim")
    if dim is not None and dim > 256 and "lokr" not in str(context.flag("network_module")).lower():
        lokr = "lokr" in " ".join(str(w) for w in context.flag("network_args") or ()).lower()
        if not lokr:
            yield context.warn("dim_large", "--network_dim", dim=dim)


@check("one_rate", level="words", row="F53")
def check_one_rate(context: Context) -> Iterator[Problem]:
    """Optimizers that find their own rate take one rate for everything."""
    name, used = optimizer_name(context), rates(context)
    if finds_its_rate(name) and len(set(used.all)) > 1:
        yield context.stop("one_rate", "--optimizer_type", name=name, rates=", ".join(f"{r:g}" for r in used.all))
    plus = [str(w) for w in context.flag("network_args") or () if str(w).startswith("loraplus")]
    if finds_its_rate(name) and plus:
        yield context.stop("one_rate.plus", "--network_args", name=name, word=plus[0])


@check("own_rate", level="words", row="F12")
def check_own_rate(context: Context) -> Iterator[Problem]:
    """Optimizers that find their own rate want a rate of 1."""
    name, used = optimizer_name(context), rates(context)
    if not finds_its_rate(name) or not used.all:
        return
    if max(used.all) <= 0.1:
        yield context.warn("own_rate", "--learning_rate", name=name, rate=f"{max(used.all):g}")
    elif max(used.all) != 1.0:
        yield context.note("own_rate.factor", "--learning_rate", name=name, rate=f"{max(used.all):g}")


@check("full_fp16_optimizer", level="words", row="F09")
def check_full_fp16(context: Context) -> Iterator[Problem]:
    """Weights held in fp16 become NaN with many optimizers."""
    if context.flag("full_fp16"):
        name = optimizer_name(context)
        key = "full_fp16_optimizer.adapt" if finds_its_rate(name) else "full_fp16_optimizer"
        yield context.warn(key, "--full_fp16", name=name)


@check("noise_offset_high", level="words", row="F12")
def check_noise_offset(context: Context) -> Iterator[Problem]:
    """A high noise offset burns contrast into the LoRA."""
    value = context.flag("noise_offset")
    if value is not None and value > 0.2:
        yield context.warn("noise_offset_high", "--noise_offset", value=f"{value:g}")
    if value and context.flag("multires_noise_iterations"):
        yield context.note("noise_offset_high.both", "--noise_offset")


@check("snr_twice", level="words", row="F12")
def check_weightings(context: Context) -> Iterator[Problem]:
    """Two weightings of time steps multiply each other."""
    if context.flag("min_snr_gamma") and context.flag("debiased_estimation_loss"):
        yield context.warn("snr_twice", "--min_snr_gamma")


@check("warmup_long", level="words", row="F24")
def check_warmup(context: Context) -> Iterator[Problem]:
    """A warm-up that takes most of the run."""
    warmup, steps = context.flag("lr_warmup_steps"), context.flag("max_train_steps")
    if not warmup or context.flag("max_train_epochs") or not steps:
        return
    part = float(warmup) if isinstance(warmup, float) and warmup < 1 else float(warmup) / steps
    if part >= 0.5:
        yield context.warn("warmup_long", "--lr_warmup_steps", warmup=f"{warmup:g}", steps=steps, percent=round(100 * part))


@check("saved_as_pickle", level="words", row="F61")
def check_save_type(context: Context) -> Iterator[Problem]:
    """Other programs refuse .ckpt and .pt files, because these can carry code."""
    if context.flag("save_model_as") in ("ckpt", "pt"):
        yield context.note("saved_as_pickle", "--save_model_as", kind=context.flag("save_model_as"))


@check("save_precision_low", level="words", row="F16")
def check_save_precision(context: Context) -> Iterator[Problem]:
    """bf16 files are not read by every program."""
    if context.flag("save_precision") == "bf16":
        yield context.note("save_precision_low", "--save_precision")


@check("half_vae", level="words", row="F11", needs=("config",))
def check_half_vae(context: Context) -> Iterator[Problem]:
    """A VAE that overflows in fp16 gives black pictures and invalid latents."""
    from library.families.registry import get

    assert context.config is not None
    machine = context.config.machine
    spec = get(context.config.model.family).SPEC
    if spec.fragile_half_vae and machine.mixed_precision == "fp16" and not machine.no_half_vae and not context.config.model.vae:
        yield context.warn("half_vae", "--no_half_vae", title=spec.title)


@check("blocks_too_many", level="words", row="F06", needs=("config",))
def check_blocks(context: Context) -> Iterator[Problem]:
    """More waiting blocks than the model has. A model that nobody published is judged again once it is loaded."""
    from library.preflight.estimate import most_blocks

    assert context.config is not None
    count = context.config.machine.blocks_to_swap
    if count and count > (most := most_blocks(context, context.config.model.family)):
        yield context.stop("blocks_too_many", "--blocks_to_swap", count=count, most=most)


LARGE_BATCH = 8 * 512 * 512
"""Pixels of a batch from which checkpointing is worth a word."""


@check("checkpointing_advice", level="words", row="F06")
def check_big_batch(context: Context) -> Iterator[Problem]:
    """A large batch without gradient checkpointing is the commonest way out of memory."""
    if context.flag("gradient_checkpointing") or context.config is None:
        return
    for part in context.config.data.parts:
        if part.batch_size * part.resolution[0] * part.resolution[1] >= LARGE_BATCH:
            yield context.note("checkpointing_advice", "--train_batch_size", batch=part.batch_size)
