"""Slider runs from the real configuration file to the saved LoRA."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import world  # noqa: E402  (needs the path above)

SIZES = {"big": 0.7, "small": 0.35, "middle": 0.5}


def pictures(folder: Path, size: float, count: int) -> Path:
    """``count`` scenes of one size, the same scenes in every folder, captions without the size."""
    folder.mkdir(parents=True)
    rng = random.Random(1)
    for number in range(count):
        scene = replace(world.random_scene(rng), number=1, x=0.5, y=0.5, size=size)
        world.draw(scene).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{world.colour_word(scene.hue)} {scene.shape}", encoding="utf-8")
    return folder


@pytest.fixture
def slide(tmp_path, train):
    """Train a slider: ``slide({"big": 1, "small": -1, "middle": None}, **flags)``; None = no strength of its own."""
    def run(strengths, name="slider", counts=None, **flags):
        lines = ["[general]", "caption_extension = '.txt'", "[[datasets]]", "resolution = 64"]
        for side, strength in strengths.items():
            folder = tmp_path / "sides" / side
            if not folder.exists():
                pictures(folder, SIZES[side], (counts or {}).get(side, 2))
            lines += ["[[datasets.subsets]]", f"image_dir = '{folder}'"]
            lines += [f"slider_strength = {strength}"] if strength is not None else []
        config = tmp_path / f"{name}.toml"
        config.write_text("\n".join(lines), encoding="utf-8")
        wanted = {"train_data_dir": None, "resolution": None, "dataset_config": config, "slider_lora_target": True,
                  "max_train_steps": 6} | flags
        return train(name, **wanted)

    return run


def test_neutral_pictures_teach_what_slider_neutral_says(slide):
    sides = {"big": 1, "small": -1, "middle": None}
    # At so small a learning rate the adapter adds nothing: an anchored batch then has no loss at all, a plain one has.
    losses = {way: slide(sides, way, slider_neutral=way, learning_rate=1e-9).losses for way in ("anchor", "plain", "skip")}
    assert [loss < 1e-9 for loss in losses["anchor"]] == [False, False, True] * 2
    assert all(loss > 0 for loss in losses["plain"])
    assert losses["plain"][:2] == losses["anchor"][:2] and min(losses["skip"]) > 1e-3


def test_an_anchored_picture_moves_the_adapter_only_where_it_changes_that_picture(slide):
    sides = {"big": 1, "small": -1, "middle": None}
    trained = {way: slide(sides, way, slider_neutral=way, max_train_steps=6).tensors() for way in ("anchor", "plain", "skip")}
    for one, other in (("anchor", "plain"), ("anchor", "skip"), ("plain", "skip")):
        assert any((trained[one][key] != trained[other][key]).any() for key in trained[one])
