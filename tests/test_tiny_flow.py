"""The shipped flow-matching model draws what it is asked for, and the program recognises and trains it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers import Lumina2Pipeline

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "examples" / "tiny-flow"
sys.path.insert(0, str(ROOT / "examples"))

import world  # noqa: E402  (needs the path above)

from library.families import detect, lumina2  # noqa: E402
from library.families.interface import LoadRequest, Parts  # noqa: E402


@pytest.fixture(scope="module")
def pipeline() -> Lumina2Pipeline:
    """The model as any program loads it."""
    loaded = Lumina2Pipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def parts() -> Parts:
    """The model as the trainer loads it."""
    return lumina2.load(LoadRequest(str(MODEL), lumina2.Options()))


def test_pictures_show_what_their_prompts_ask_for(pipeline):
    asked = world.batch_of_prompts(40, seed=0)
    pictures = pipeline([prompt for prompt, _ in asked], system_prompt="", height=64, width=64, num_inference_steps=20,
                        guidance_scale=4.0, cfg_normalization=False, max_sequence_length=48,
                        generator=torch.Generator().manual_seed(0), output_type="np").images  # fmt: skip
    figures = world.agreement([scene for _, scene in asked], [world.measure(picture) for picture in pictures])
    wanted = {"colour": 0.85, "shape": 0.7, "size": 0.65, "background": 0.95}
    assert all(figures[name] >= least for name, least in wanted.items()), figures


def test_it_is_recognised_by_its_folder():
    assert detect.identify(str(MODEL)).family == "lumina2"


def test_the_family_reads_text_and_predicts_as_diffusers_does(pipeline, parts):
    from library.diffusion.schedule import Noised

    cond = lumina2.encode_text(parts, ["solo, red circle"])
    states, mask, _, _ = pipeline.encode_prompt("solo, red circle", False, system_prompt="", max_sequence_length=48)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = lumina2.predict(parts, Noised(x, x, torch.tensor([700.0]), torch.tensor([0.7])), cond)
    assert ours.shape == x.shape and torch.isfinite(ours).all()
    # The pipeline puts its mark in front of every prompt; with the mark as a system prompt both read the same text.
    marked = lumina2.encode_text(parts, [" <Prompt Start> solo, red circle"])
    assert torch.allclose(marked["text"][0], states[0, : int(mask.sum())], atol=1e-5)
    theirs = -pipeline.transformer(x, torch.tensor([0.3]), states, mask.bool(), return_dict=False)[0]
    again = lumina2.predict(parts, Noised(x, x, torch.tensor([700.0]), torch.tensor([0.7])), marked)
    assert torch.allclose(again, theirs, atol=1e-4)


def test_it_is_small_enough_to_ship():
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) < 8_000_000
