"""Slider runs from the real configuration file to the saved LoRA."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from library.train import calibration

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

    run.folder = tmp_path / "sides"
    return run


def test_neutral_pictures_teach_what_slider_neutral_says(slide):
    sides = {"big": 1, "small": -1, "middle": None}
    # At so small a learning rate the adapter adds nothing: an anchored batch then has no loss at all, a plain one has.
    losses = {way: slide(sides, way, slider_neutral=way, learning_rate=1e-9, max_train_steps=3).losses
              for way in ("anchor", "plain", "skip")}
    assert [loss < 1e-9 for loss in losses["anchor"]] == [False, False, True]
    assert all(loss > 0 for loss in losses["plain"])
    assert losses["plain"][:2] == losses["anchor"][:2] and min(losses["skip"]) > 1e-3


def test_a_pair_pulls_as_its_two_pictures_alone_would_with_the_same_noise(slide):
    taken = {"max_train_steps": 1, "optimizer_type": "SGD", "max_grad_norm": 0.0, "learning_rate": 1.0}
    same = {"big": 1, "small": -1}
    both = slide(same, "both", {"big": 1, "small": 1}, slider_pairing="filename", **taken).tensors()
    ups = [key for key in both if "lora_up" in key]
    # A pair of two equal pictures pulls in opposite directions with equal force: nothing is learnt but their difference.
    folder = next(iter((slide.folder / "small").glob("*.png")))
    folder.write_bytes(next(iter((slide.folder / "big").glob("*.png"))).read_bytes())
    equal = slide(same, "equal", slider_pairing="filename", **taken).tensors()
    pulls = [sum(float(one[key].norm()) for key in ups) for one in (both, equal)]
    assert pulls[1] < 0.3 * pulls[0]  # not 0: the latents of a picture are drawn from what the VAE gives


def test_an_anchored_picture_moves_the_adapter_only_where_it_changes_that_picture(slide):
    sides = {"big": 1, "small": -1, "middle": None}
    trained = {way: slide(sides, way, slider_neutral=way, max_train_steps=3).tensors() for way in ("anchor", "plain", "skip")}
    for one, other in (("anchor", "plain"), ("anchor", "skip"), ("plain", "skip")):
        assert any((trained[one][key] != trained[other][key]).any() for key in trained[one])


def test_the_last_files_alpha_makes_one_what_the_drawn_pictures_ask_for(slide, monkeypatch):
    seen = []

    def drawn(session, sides, axis, strengths):
        seen.append((len(sides.positive), len(sides.negative), len(sides.lines), sides.reach, strengths))
        return [strength / 1.7 for strength in strengths]

    monkeypatch.setattr(calibration, "_drawn_at", drawn)
    run = slide({"big": 0.5, "small": -0.5}, counts={"big": 6, "small": 6}, max_train_steps=3, save_every_n_steps=2)
    assert [one[:4] for one in seen] == [(6, 6, 6, 0.5)] * 3
    assert seen[0][4] == (-1, 1) and seen[-1][4] == pytest.approx([-1.7, -0.85, 0, 0.85, 1.7])
    last, early = run.tensors(), run.tensors("slider-step00000002.safetensors")
    alphas = [key for key in last if key.endswith(".alpha")]
    assert alphas and all(float(last[key]) == pytest.approx(4 * 1.7) and float(early[key]) == 4 for key in alphas)
    told = run.metadata()
    assert (told["ss_slider_factor"], told["ss_slider_measured_at"], float(told["ss_network_alpha"])) == (
        "1.7000", "1.7000", pytest.approx(6.8))
    assert "ss_slider_factor" not in run.metadata("slider-step00000002.safetensors")


def test_a_slider_is_measured_on_pictures_it_draws_from_the_same_noise(slide, monkeypatch):
    places, real = [], calibration._drawn_at

    def drawn(*given):
        places.append(real(*given))
        return places[-1]

    monkeypatch.setattr(calibration, "_drawn_at", drawn)
    monkeypatch.setattr(calibration, "LINES", 2)
    monkeypatch.setattr(calibration, "STEPS", 2)
    run = slide({"big": 1, "small": -1}, counts={"big": 6, "small": 6}, learning_rate=1e-9, max_train_steps=1)
    assert places[0][0] == pytest.approx(places[0][1], abs=1e-3)  # nothing learnt, nothing moved
    assert "ss_slider_factor" not in run.metadata()


def test_the_factor_follows_a_response_that_is_not_a_straight_line():
    def effect(factor):
        return 0.4 * factor**0.8

    known, factor = [(0.0, 0.0)], 1.0
    for _ in range(calibration.ROUNDS):
        known.append((factor, effect(factor)))
        factor = calibration.next_factor(known)
    assert effect(factor) == pytest.approx(1.0, rel=0.01)
    assert calibration.next_factor([(0.0, 0.0), (1.0, 0.06)]) == calibration.MOST
