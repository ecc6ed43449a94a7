"""Captions in sentences by a model of transformers that turns pictures into text: BLIP, GIT, Florence-2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from library.data import images
from library.util.hub_access import offline_where_unreachable, patiently
from library.util.records import Problem, UserError
from library.util.said import say
from library.util.secrets import reason


@dataclass(frozen=True)
class Writing:
    """How a caption is written."""

    prompt: str = ""
    """What stands before the answer, or a Florence-2 task such as ``<MORE_DETAILED_CAPTION>``."""
    beams: int = 1
    sample: bool = False
    """Draw words by chance (``top_p``) instead of taking the likeliest."""
    top_p: float = 0.9
    max_length: int = 75
    min_length: int = 5


class Captioner:
    """A loaded model with its processor. Raises UserError where there is none, or no network to load it."""

    def __init__(self, model_id: str, device: str | None = None):
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if Path(model_id).suffix in (".pth", ".pt", ".ckpt") or model_id.startswith(("http://", "https://")):
            raise UserError(Problem(model_id, "Weights of the first BLIP program are not read here.",
                                    "Give a transformers model: Salesforce/blip-image-captioning-large, or its folder."))
        if not Path(model_id).is_dir():
            offline_where_unreachable()
        try:
            self.processor = patiently(AutoProcessor.from_pretrained, model_id)
            self.model = patiently(AutoModelForImageTextToText.from_pretrained, model_id).to(self.device).eval()
        except (OSError, ValueError) as error:
            raise UserError(
                Problem(
                    model_id,
                    say("This captioner cannot be loaded ({reason}).", reason=reason(error)[:120]),
                    "Check the name and the connection; or load its repository's files elsewhere and give their folder.",
                )
            ) from error

    def write(self, paths: Sequence[Path], writing: Writing, batch: int = 1) -> Iterator[tuple[Path, str | UserError]]:
        """Pictures with their captions; a picture that cannot be read comes with what is wrong."""
        import torch
        from PIL import Image

        for start in range(0, len(paths), batch):
            part = list(paths[start:start + batch])
            read: list[Image.Image | UserError] = [_picture(path) for path in part]
            whole = [one for one in read if not isinstance(one, UserError)]
            answers: Iterator[str] = iter(())
            if whole:
                text = {"text": [writing.prompt] * len(whole)} if writing.prompt else {}
                inputs = self.processor(images=whole, return_tensors="pt", **text).to(self.device)
                options = {"do_sample": True, "top_p": writing.top_p} if writing.sample else {"do_sample": False}
                with torch.no_grad():
                    made = self.model.generate(**inputs, num_beams=writing.beams, max_new_tokens=writing.max_length,
                                               min_new_tokens=writing.min_length, **options)
                answers = iter(self.processor.batch_decode(made, skip_special_tokens=True))
            for path, one in zip(part, read, strict=True):
                yield path, one if isinstance(one, UserError) else _tidy(next(answers), writing.prompt)


def _picture(path: Path):
    from PIL import Image

    try:
        return Image.fromarray(images.read(path))
    except UserError as error:
        return error


def _tidy(text: str, prompt: str) -> str:
    """One line, without the prompt that some models repeat."""
    text = " ".join(text.split())
    return text.removeprefix(prompt).strip()
