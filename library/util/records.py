"""The plain records that travel between the stages of a run.

They stand here, below every other room, because the rooms that make them and the rooms that use them may not
import each other. Nothing in this file computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Severity = Literal["stop", "warn", "note"]
Cond = dict[str, Any]
"""Conditioning of a batch: named tensors (first axis = batch), for some families lists of tensors."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what was seen there, how to mend it, and whether the run can go on."""

    where: str
    """The flag (``--resolution``), file (``a.toml:12``) or thing (``GPU``) that is at fault."""
    what: str
    """What is wrong, with the value that was seen."""
    remedy: str
    """What to do about it, in one or two sentences."""
    severity: Severity = "stop"
    check: str = ""
    """Name of the check that found it."""
    command: str = ""
    """A command line to copy, shown unbroken below the frame."""


class UserError(Exception):
    """Problems that end the run; shown in one frame, without a traceback, exit code 1."""

    def __init__(self, *problems: Problem):
        super().__init__("\n".join(f"{p.where}: {p.what}" for p in problems))
        self.problems = list(problems)


class RunEnded(UserError):
    """Problems that end a run which was under way: the frame then says that it stopped, not that it did not start."""


@dataclass
class Batch:
    """What one part of a step trains on: pictures of one size at one adapter strength.

    Shapes: ``pixels_BCHW`` in [-1, 1]; ``latents_BCHW`` as the family's ``encode_image`` gives them (normalised);
    exactly one of the two is set. Sizes are in pixels as (height, width), crops as (top, left).
    """

    captions: list[str]
    weights_B: torch.Tensor
    original_sizes: list[tuple[int, int]]
    crops: list[tuple[int, int]]
    target_size: tuple[int, int]
    pixels_BCHW: torch.Tensor | None = None
    latents_BCHW: torch.Tensor | None = None
    cond: Cond | None = None
    """Cached conditioning; None means that the captions are encoded in the step."""
    masks_B1HW: torch.Tensor | None = None
    """Loss masks in 0..1 at pixel resolution."""
    strength: float | None = None
    """Adapter multiplier of this batch; None outside slider training (the adapter then stays at 1)."""
    opposite: float | None = None
    """Strength of the second half of the pictures, where a batch holds matched pairs (``kind`` is then "pair")."""
    kind: str = "pictures"
    """Which of the run's objectives it is for (``library/train/objectives``)."""
    keys: list[str] = field(default_factory=list)
    """Paths of the pictures, for messages."""
    attributes: list[dict[str, Any]] = field(default_factory=list)
    """``custom_attributes`` of each picture's subset, for objectives of one's own; nothing here reads them."""

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class PromptBatch:
    """A turn of a slider that is learned from texts: its objective draws what it trains on."""

    kind: str = "prompts"


@dataclass(frozen=True)
class Target:
    """One module of the loaded model that may carry an adapter.

    ``name`` is the stem of its tensors in a LoRA file (kohya's spelling, ``lora_unet_...``); ``path`` its dotted
    path under ``root`` in diffusers' or transformers' spelling, with canonical names for text encoders.
    """

    name: str
    path: str
    root: str
    """``denoiser``, or ``text_encoder``, ``text_encoder_2``, ... as the family's text slots name them."""
    module: torch.nn.Module
    role: str
    """``self-attention``, ``cross-attention``, ``feed-forward``, ``conv``, ``time``, ``projection``, ``text-stream``, ..."""
    conv_only: bool = False
    """True for modules that get an adapter only where ``conv_dim`` is given (resnets and samplers of a U-Net)."""
    block: int | None = None
    """Index of its block in kohya's block order (25 blocks for SD), for block dims and block learning rates."""
    native: str | None = None
    """Dotted path in the original checkpoint's spelling, for files in ComfyUI's format; None = the same as ``path``."""
    fused: tuple[str, int, int] | None = None
    """(path, first row, rows) in the module of the original that fuses this one with others (qkv); ``native`` is None then."""
    fused_parts: tuple[tuple[int, int], ...] = ()
    """(first row, rows) of every part of the module that ``fused`` names, in order."""
    any_kernel: bool = False
    """True where a preset names the module itself: it takes the network's own dim, whatever its kernel."""
    halves_swapped: bool = False
    """True where the original has the two halves of this layer's rows in the other order; ``native`` names it there."""


@dataclass(frozen=True)
class SavedFile:
    """A LoRA file that was written."""

    path: str
    metadata: dict[str, str]
    sha256: str


@dataclass
class StepResult:
    """Outcome of one part of a step: the scalar to call backward on, and what is logged of it."""

    loss: torch.Tensor
    per_item_B: torch.Tensor
    timesteps_B: torch.Tensor
    extra: dict[str, float] = field(default_factory=dict)


EncodeImage = Callable[["torch.Tensor"], "torch.Tensor"]
"""pixels BCHW in [-1, 1] -> normalised latents BCHW."""
EncodeText = Callable[[list[str]], Cond]
"""captions -> conditioning."""
