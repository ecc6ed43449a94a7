"""What an architecture is to the rest of the program: a spec and a handful of functions.

A family is a module in this folder. It is never subclassed and never named outside this folder: other rooms hold
the module (``Family``) and call its functions. Importing it costs nothing: torch, diffusers and transformers are
imported inside its functions.

Contract of every function below: latents are 4-D and normalised (unit-ish variance), predictions have the latents'
shape and live in the space that ``spec.target_space`` names; packing, position ids, time scale, sign, guidance and
extra channels are the family's own business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from library.util.header import Header
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised, Schedule


@dataclass(frozen=True)
class TextSlot:
    """One text encoder: its part name, the prefix of its adapter's names and the canonical prefix of its layers."""

    part: str
    """``text_encoder``, ``text_encoder_2``, ..."""
    lora_prefix: str
    """``lora_te``, ``lora_te1``, ..."""
    canonical_prefix: str = ""
    """Put in front of layer paths where the library's class lost it (``text_model.`` since transformers 5.6)."""
    max_length: int = 77
    trainable: bool = True
    tokenizer_of: str | None = None
    """Hub repository (``owner/name[/folder]``) that has the tokenizer's files; None where they ship with this program."""
    option: str = ""
    """Option that names the encoder's file, where its tokenizer does not ship."""
    ignored_by: tuple[str, ...] = ()
    """Programs that read this family's LoRA files and leave this encoder's part of them out."""


@dataclass(frozen=True)
class PadRule:
    """How a conditioning tensor of differing length is padded in a batch: along ``dim`` with ``value`` (None = fixed)."""

    dim: int | None = None
    value: float = 0.0


@dataclass(frozen=True)
class Share:
    """A part of a conditioning tensor: from ``start`` to ``end`` of its last axis, as shares of that axis."""

    key: str
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class FamilySpec:
    """An architecture's constants."""

    name: str
    title: str
    scripts: tuple[str, ...]
    """Entry scripts that lead here, the usual one first."""
    target_space: Literal["eps", "v", "flow"]
    latent_channels: int
    vae_factor: int
    bucket_step: int
    default_resolution: int
    text_slots: tuple[TextSlot, ...]
    cond_padding: Mapping[str, PadRule]
    cache_suffix: str
    """Of latent caches beside the pictures (``_sd``)."""
    cache_raw: bool
    """True where caches hold the VAE's own latents, before normalisation (kohya's SD families)."""
    text_cache_suffix: str | None
    roles: Mapping[str, tuple[str, ...]]
    """role -> regular expressions on dotted module paths of the denoiser, tried in order, first match wins."""
    never_touch: tuple[str, ...] = ()
    joint_stream: tuple[str, ...] = ()
    save_formats: tuple[str, ...] = ("kohya", "diffusers")
    loads_in: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """save format -> programs that load it; ``apart``, where originals fuse layers: those that know these layers by diffusers'
    paths (``lycoris_``)."""
    needs: tuple[str, ...] = ()
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)
    recommended: Mapping[str, Any] = field(default_factory=dict)
    """Settings that are documented as better than the defaults, for ``--recommended``: option -> value."""
    distilled_marks: tuple[str, ...] = ()
    """Words in a model's name that tell a distilled variant, which is trained with a frozen assistant LoRA."""
    cond_dropout: Mapping[str, tuple[Share, ...]] = field(default_factory=dict)
    """Option that holds a rate -> what of the conditioning is zero for a caption that it hits."""
    fragile_half_vae: bool = False
    """True where the VAE overflows in fp16, so that a run in fp16 should keep it in fp32 (``--no_half_vae``)."""


@dataclass
class Parts:
    """The loaded model. Parts that were not asked for, or were freed, are None / absent."""

    denoiser: Any
    vae: Any
    text_encoders: list[Any]
    tokenizers: list[Any]
    options: Any
    """The family's options dataclass (clip_skip, max_token_length, v_parameterization, ...)."""
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    name_or_path: str = ""
    latent_channels: int | None = None
    """Of the loaded model, where an architecture has models of several; None = the spec's."""


@dataclass(frozen=True)
class LoadRequest:
    """What to load: ``parts`` is a subset of {"denoiser", "vae", "text"}; ``dtype`` of the weights (name)."""

    source: str
    options: Any
    dtype: str = "fp32"
    vae: str | None = None
    vae_dtype: str = "fp32"
    parts: frozenset[str] = frozenset({"denoiser", "vae", "text"})
    device: str = "cpu"


def latent_channels(family: Family, parts: Parts) -> int:
    """Channels of the loaded model's latents."""
    return parts.latent_channels or family.SPEC.latent_channels


class Family(Protocol):
    """The functions of a family's module. ``sd1.py`` is the example to read."""

    SPEC: FamilySpec
    Options: type
    """A frozen dataclass of this family's options; its field names are flag names."""

    def matches(self, header: Header) -> bool:
        """Tell from tensor names and shapes alone whether a checkpoint is of this family."""

    def matches_index(self, model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """The same for a diffusers folder: its model_index.json and its parts' config.json by part name."""

    def hints(self, header: Header) -> dict[str, Any]:
        """Options that a single file tells by its names and shapes (v2, v_parameterization, in_channels, ...)."""

    def index_hints(self, model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The same from a diffusers folder's configurations."""

    def base_version(self, options: Any) -> str:
        """kohya's ``ss_base_model_version`` (``sd_v1``)."""

    def architecture(self, options: Any) -> str:
        """``modelspec.architecture`` without the ``/lora`` suffix."""

    def load(self, request: LoadRequest) -> Parts: ...

    def tiny(self, seed: int = 0) -> Parts:
        """A tiny random model of this architecture, for tests."""

    def adapter_targets(self, parts: Parts) -> list[Target]:
        """Every module that may carry an adapter, text encoders first, in kohya's order of creation."""

    def extra_targets(self, parts: Parts) -> list[Target]:
        """Modules that kohya's rule leaves out and presets by role may take: conv_in, conv_out, time embedding, ..."""

    def encode_image(self, parts: Parts, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Pixels in [-1, 1] -> normalised latents, sampled from the VAE's posterior with torch's global generator."""

    def decode_latents(self, parts: Parts, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised latents -> pixels in [-1, 1]."""

    def normalise(self, parts: Parts, raw_BCHW: torch.Tensor) -> torch.Tensor:
        """The VAE's own latents, as kohya's caches hold them, -> normalised latents."""

    def denormalise(self, parts: Parts, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """The inverse of ``normalise``."""

    def encode_text(self, parts: Parts, captions: list[str]) -> Cond:
        """Captions -> conditioning; gradients flow where a text encoder is trained."""

    def size_cond(
        self, original_sizes: list[tuple[int, int]], crops: list[tuple[int, int]], target_size: tuple[int, int]
    ) -> Cond:
        """Conditioning that follows from sizes alone (SDXL's time ids); {} elsewhere."""

    def schedule(self, options: Any, noise: Any) -> Schedule:
        """The noise schedule; ``noise`` is the NoiseConfig-like record of timestep range and zero terminal SNR."""

    def predict(self, parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
        """One call of the denoiser; same shape as ``noised.x``, in ``spec.target_space``."""

    def pipeline(self, parts: Parts) -> Any:
        """The diffusers pipeline over these parts for sample pictures; None = our own sampler over ``predict``."""


FamilyFactory = Callable[[], Family]

__all__ = ["Family", "FamilyFactory", "FamilySpec", "Header", "LoadRequest", "PadRule", "Parts", "Share", "TextSlot"]
