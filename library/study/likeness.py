"""How far pictures lie apart: in the model's own latents, and by an embedding model where one is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families.interface import Family, Parts
from library.sample.undisturbed import random_states_kept
from library.util.hub_access import offline_where_unreachable
from library.util.records import Problem, UserError
from library.util.said import say
from library.util.secrets import reason

if TYPE_CHECKING:
    import torch
    from PIL import Image

BATCH = 16


def pixels(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size -> B3HW in [-1, 1]."""
    import numpy as np
    import torch

    arrays = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1


def latents(family: Family, parts: Parts, pictures: Sequence[Image.Image], device: Any = "cpu") -> list[torch.Tensor]:
    """The latents CHW of pictures of any sizes, in fp32 on the CPU, the same at every call."""
    import torch

    found: list[torch.Tensor] = []
    with random_states_kept(), torch.no_grad():
        torch.manual_seed(0)
        for picture in pictures:
            found.append(family.encode_image(parts, pixels([picture]).to(device, parts.vae.dtype))[0].float().cpu())
    return found


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Distance of two latents on a scale of its own: 0 for the same picture, about 1 for two that have nothing in common.

    The root mean square of the difference over what two independent pictures of these variances would show.
    """
    def spread(x: torch.Tensor) -> float:
        return float((x - x.mean(dim=(-2, -1), keepdim=True)).pow(2).mean())

    between = spread(one) + spread(other)
    return float((one - other).pow(2).mean() / between) ** 0.5 if between else 0.0


@dataclass(frozen=True)
class Embedder:
    """A model that turns pictures and words into vectors of one space (CLIP, SigLIP)."""

    model: Any
    processor: Any
    tokenizer: Any

    def pictures(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit vectors of pictures."""
        import torch

        found = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                given = self.processor(images=[i.convert("RGB") for i in images[start:start + BATCH]], return_tensors="pt")
                found.append(_vectors(self.model.get_image_features(**given)))
        return torch.nn.functional.normalize(torch.cat(found).float(), dim=-1)

    def words(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors of texts; what is longer than the model reads is cut off."""
        import torch

        with torch.no_grad():
            given = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
            found = _vectors(self.model.get_text_features(**given))
        return torch.nn.functional.normalize(found.float(), dim=-1)


def _vectors(output: Any) -> Any:
    """The features themselves: newer transformers wrap them."""
    import torch

    return output if isinstance(output, torch.Tensor) else output.pooler_output


def embedder(source: str) -> Embedder:
    """Load an embedding model from a folder or the hub; UserError where there is none."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    if not Path(source).is_dir():
        offline_where_unreachable()
    try:
        model = AutoModel.from_pretrained(source).eval()
        return Embedder(model, AutoImageProcessor.from_pretrained(source), AutoTokenizer.from_pretrained(source))
    except (OSError, ValueError) as error:
        raise UserError(
            Problem(
                "--likeness",
                say(
                    '"{source}" is no embedding model that can be loaded ({reason}).',
                    source=source,
                    reason=reason(error)[:120],
                ),
                "Name a folder or hub id of a CLIP model, such as openai/clip-vit-base-patch32, or leave "
                "--likeness out: the distance to the base model is measured without it.",
            )
        ) from error
