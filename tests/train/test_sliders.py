"""Slider runs from the real configuration file to the saved LoRA."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from library.train import calibration, measuring, sampling, stages
from library.train.axis import described

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
    both = slide(same, "both", {"big": 1, "small": 1}, slider_pairing="filename", slider_pair_goal="pictures", **taken).tensors()
    ups = [key for key in both if "lora_up" in key]
    # A pair of two equal pictures pulls in opposite directions with equal force: nothing is learnt but their difference.
    folder = next(iter((slide.folder / "small").glob("*.png")))
    folder.write_bytes(next(iter((slide.folder / "big").glob("*.png"))).read_bytes())
    equal = slide(same, "equal", slider_pairing="filename", slider_pair_goal="pictures", **taken).tensors()
    pulls = [sum(float(one[key].norm()) for key in ups) for one in (both, equal)]
    assert pulls[0] > 0 and pulls[1] < 1e-5 * pulls[0]


def test_a_pair_teaches_the_way_from_one_picture_to_the_other(slide):
    given = {"strengths": {"big": 1, "small": -1}, "max_train_steps": 1, "slider_pairing": "filename", "cache_latents": True}
    first = {goal: slide(name=goal, slider_pair_goal=goal, **given).losses[0] for goal in ("change", "pictures")}
    # With a new adapter the loss is what is asked for: (half the difference of the pictures)^2, times the noise level's weight.
    assert 0 < first["change"] != first["pictures"] > 0
    for path in (slide.folder / "small").glob("*.png"):
        path.write_bytes((slide.folder / "big" / path.name).read_bytes())
    assert slide(name="equal", **given).losses[0] < 1e-2 * first["change"]  # but for the VAE's own draw
    for path in (slide.folder / "small").glob("*.*"):
        path.rename(path.with_stem(f"other {path.stem}"))
    assert slide(name="unnamed", **given).losses == slide(name="unnamed-pictures", slider_pair_goal="pictures", **given).losses


def test_the_loss_of_a_slider_counts_noise_levels_by_the_clean_picture(slide):
    same = {"big": 1, "small": -1}
    late = {"max_train_steps": 1, "min_timestep": 950, "max_timestep": 951}
    first = {loss: slide(same, loss, slider_loss=loss, **late).losses[0] for loss in ("plain", "scale_free")}
    assert first["scale_free"] > 4 * first["plain"]  # at 950 of 1000 an error of the answer is 6 times the mean in the picture


def test_the_last_files_alpha_makes_one_what_the_drawn_pictures_ask_for(slide, monkeypatch):
    seen = []

    def drawn(session, sides, lines, strength):
        """Descriptions of pictures that do two thirds of what is asked."""
        seen.append((len(sides.positive), len(sides.negative), len(lines), sides.reach, strength))
        above, below = (described(side).mean(0) for side in (sides.positive, sides.negative))
        return torch.stack([(above + below) / 2 + strength / 1.5 * (above - below) / 2 + 1e-3 * torch.randn(len(above))
                            for _ in lines])

    monkeypatch.setattr(measuring, "drawn_at", drawn)
    monkeypatch.setattr(calibration, "MOST_ASIDE", 9.0)  # eight equal pictures have no spread to speak of
    run = slide({"big": 0.5, "small": -0.5}, counts={"big": 6, "small": 6}, max_train_steps=3, save_every_n_steps=2)
    assert {one[:4] for one in seen} == {(6, 6, measuring.PORTION, 0.5)}
    told, last, early = run.metadata(), run.tensors(), run.tensors("slider-step00000002.safetensors")
    factor = float(told["ss_slider_factor"])
    tried = [one[4] for one in seen]
    assert 1.2 < factor < 1.8 and all(min(abs(one - strength) for one in tried) < 1e-3 for strength in (1, -1, 0, factor / 2))
    alphas = [key for key in last if key.endswith(".alpha")]
    assert alphas and all(float(last[key]) == pytest.approx(4 * factor, rel=1e-3) and float(early[key]) == 4 for key in alphas)
    assert float(told["ss_network_alpha"]) == pytest.approx(4 * factor, rel=1e-3)
    assert told["ss_slider_response"].startswith("-1:-") and told["ss_slider_range"] == "-1,1"
    assert "ss_slider_factor" not in run.metadata("slider-step00000002.safetensors")


@pytest.mark.parametrize(("count", "captions_too"), [(measuring.ENOUGH, False), (1, True)])
def test_a_slider_is_measured_on_captions_that_it_learned_only_where_sample_prompts_are_few(slide, monkeypatch, tmp_path, count,
                                                                                            captions_too):
    seen = set()

    def drawn(session, sides, lines, strength):
        seen.update(line.prompt for line in lines)
        return torch.stack([described(sides.positive).mean(0) * strength for _ in lines])

    monkeypatch.setattr(measuring, "drawn_at", drawn)
    texts = [f"{colour} circle" for colour in list(world.HUES)[:count]]
    (tmp_path / "prompts.txt").write_text("\n".join(f"solo, {text} --w 64 --h 64" for text in texts), encoding="utf-8")
    slide({"big": 1, "small": -1}, counts={"big": 6, "small": 6}, max_train_steps=1, sample_prompts=tmp_path / "prompts.txt")
    own = {f"solo, {text}" for text in texts}
    assert own <= seen and bool(seen - own) == captions_too


def test_strips_at_the_end_show_what_the_calibrated_file_does(slide, monkeypatch, tmp_path):
    seen = []

    def strips(family, parts, lines, options, place, strengths):
        for strength in strengths:
            with options.at_strength(strength):
                seen.append(options.modules[0].multiplier)
        return []

    monkeypatch.setattr(stages, "calibrator", lambda made, guide: lambda session: calibration.Response(calibration.STRENGTHS, 1.7))
    monkeypatch.setattr(sampling, "draw_strips", strips)
    (tmp_path / "prompts.txt").write_text("red circle --w 64 --h 64", encoding="utf-8")
    slide({"big": 1, "small": -1}, max_train_steps=2, sample_prompts=tmp_path / "prompts.txt", sample_at_first=True,
          slider_sample_strengths="-0.5,1")
    assert seen == pytest.approx([-0.5, 1, -0.85, 1.7])  # before training, and with the last file's alpha


def test_a_slider_that_learned_nothing_keeps_its_alpha(slide, monkeypatch):
    found, real = {}, measuring.drawn_at

    def drawn(session, sides, lines, strength):
        found[strength] = real(session, sides, lines, strength)
        return found[strength]

    monkeypatch.setattr(measuring, "drawn_at", drawn)
    monkeypatch.setattr(measuring, "LINES", 2)
    monkeypatch.setattr(measuring, "STEPS", 2)
    run = slide({"big": 1, "small": -1}, counts={"big": 6, "small": 6}, learning_rate=1e-9, max_train_steps=1)
    assert torch.allclose(found[1.0], found[-1.0], atol=1e-3)  # from the same noise; nothing learnt, nothing moved
    assert "ss_slider_factor" not in run.metadata()
