"""Hub repositories that older guides name and that are gone, with the place where the same model is now."""

from __future__ import annotations

MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}
"""Old id in lower case -> mirror with the same files (the owner deleted its organisation in 2024)."""


def mirror_of(repo: str) -> str | None:
    """The present place of a repository that was removed; None where it was not, or no mirror is known."""
    return MOVED.get(repo.strip().lower())
