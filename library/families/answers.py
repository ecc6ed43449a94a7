"""Answers that many families give alike, as functions to name in a family's file (``hints = answers.no_hints``).

What a family says of itself alone stands in its own file; nothing here knows which families there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from library.families import flow, language
from library.families.interface import Header, Parts
from library.families.native import Transformer
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Schedule

Configs = Mapping[str, Mapping[str, Any]]


def no_hints(header: Header) -> dict[str, Any]:
    """Nothing: the models of this family have the same shapes."""
    return {}


def no_index_hints(model_index: Mapping[str, Any], configs: Configs) -> dict[str, Any]:
    """Nothing."""
    return {}


def no_sizes(original_sizes: list[tuple[int, int]], crops: list[tuple[int, int]], target_size: tuple[int, int]) -> Cond:
    """Nothing: these models are not told sizes."""
    return {}


def always(text: str) -> Callable[[Any], str]:
    """A name that does not depend on the options."""
    return lambda options: text


def folder_of(class_name: str) -> Callable[[Mapping[str, Any], Configs], bool]:
    """Tell a model folder by the class of its transformer."""
    return lambda model_index, configs: (model_index.get("transformer") or [None, ""])[1] == class_name


class Vae(Protocol):
    """``vae.py`` and its kin: functions of a VAE."""

    def encode(self, vae: Any, pixels_BCHW: torch.Tensor) -> torch.Tensor: ...
    def decode(self, vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor: ...
    def normalise(self, vae: Any, raw_BCHW: torch.Tensor) -> torch.Tensor: ...
    def denormalise(self, vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor: ...


PartsToTensor = Callable[[Parts, "torch.Tensor"], "torch.Tensor"]


def images(kind: Vae) -> tuple[PartsToTensor, PartsToTensor, PartsToTensor, PartsToTensor]:
    """``encode_image``, ``decode_latents``, ``normalise`` and ``denormalise`` of a family whose VAE is of this kind."""

    def encode_image(parts: Parts, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Pixels in [-1, 1] -> normalised latents."""
        return kind.normalise(parts.vae, kind.encode(parts.vae, pixels_BCHW))

    def decode_latents(parts: Parts, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised latents -> pixels in [-1, 1]."""
        return kind.decode(parts.vae, latents_BCHW)

    def normalise(parts: Parts, raw_BCHW: torch.Tensor) -> torch.Tensor:
        """The VAE's own latents -> normalised ones."""
        return kind.normalise(parts.vae, raw_BCHW)

    def denormalise(parts: Parts, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """The inverse of ``normalise``."""
        return kind.denormalise(parts.vae, latents_BCHW)

    return encode_image, decode_latents, normalise, denormalise


PartsToTargets = Callable[[Parts], list[Target]]


def targets(transformer: Transformer, roles: Mapping[str, tuple[str, ...]], usual: Callable[[Target], bool],
            texts: PartsToTargets = lambda parts: []) -> tuple[PartsToTargets, PartsToTargets]:  # fmt: skip
    """``adapter_targets`` (those of ``texts``, then the transformer's ``usual`` ones) and ``extra_targets`` (its others)."""

    def adapter_targets(parts: Parts) -> list[Target]:
        every = transformer.targets(parts.denoiser, roles) if parts.denoiser is not None else []
        return texts(parts) + [target for target in every if usual(target)]

    def extra_targets(parts: Parts) -> list[Target]:
        return [target for target in transformer.targets(parts.denoiser, roles) if not usual(target)]

    return adapter_targets, extra_targets


def language_targets(parts: Parts) -> list[Target]:
    """Every linear layer of the language model that reads the captions, named ``lora_te_...`` as kohya does."""
    return [t for model in parts.text_encoders[:1] for t in language.adapter_targets(model, "text_encoder", "lora_te")]


def in_blocks(target: Target) -> bool:
    """Whether a layer stands in one of the transformer's blocks (``transformer_blocks.``, ``single_...``)."""
    return "_blocks." in target.path


def flow_schedule(tokens: tuple[int, int] = (256, 4096), mus: tuple[float, float] = (0.5, 1.15), patch: int = 2,
                  reverse: bool = False, names: tuple[str, ...] = (), further: Mapping[str, flow.Mu] | None = None,
                  ) -> Callable[[flow.FlowOptions, Any], Schedule]:  # fmt: skip
    """``schedule`` of rectified flow; ``flux_shift`` moves noise levels by the number of image tokens, between these ends.

    ``reverse``: the model answers x0 - noise (which matters for ``--model_prediction_type`` alone). ``names``: what the
    curve is called besides. ``further``: the family's other curves by name.
    """

    def schedule(options: flow.FlowOptions, noise: Any) -> Schedule:
        from library.diffusion.timesteps import MuRange

        curve = MuRange(tokens, mus, patch)
        return flow.schedule(options, noise, {**dict.fromkeys(("flux_shift", *names), curve), **(further or {})}, reverse)

    return schedule


def pipeline(class_name: str) -> Callable[[Parts], Any]:
    """``pipeline`` of that class of diffusers over a transformer, a VAE and numbered text encoders and tokenizers."""

    def over(parts: Parts) -> Any:
        import diffusers

        scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(dict(parts.scheduler_config))
        texts = {f"{name}{'' if i == 0 else f'_{i + 1}'}": one
                 for name, found in (("text_encoder", parts.text_encoders), ("tokenizer", parts.tokenizers))
                 for i, one in enumerate(found)}  # fmt: skip
        with _quietly():
            kind = getattr(diffusers, class_name)
            return kind(scheduler=scheduler, vae=parts.vae, transformer=parts.denoiser, **texts)

    return over


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the libraries' words on what a pipeline could use besides (torchvision, guiders) but does not here."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = [(one, one.get_verbosity()) for one in (of_diffusers, of_transformers)]
    try:
        for one, _ in before:
            one.set_verbosity_error()
        yield
    finally:
        for one, level in before:
            one.set_verbosity(level)
