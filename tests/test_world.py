"""`measure` is the ruler of every end-to-end test, so it is held against true pictures here."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import world  # noqa: E402  (needs the path above)


@pytest.fixture(scope="module")
def seen() -> list[tuple[world.Scene, world.Reading]]:
    """600 scenes, every sixth of them with the new subject, and what `measure` reads from their pictures."""
    rng = random.Random(11)
    scenes = [world.random_scene(rng) for _ in range(500)] + world.subject_scenes(100, seed=12)
    return [(scene, world.measure(world.draw(scene))) for scene in scenes]


def test_measure_reads_every_attribute_of_true_pictures_in_99_of_100(seen):
    figures = world.agreement([scene for scene, _ in seen], [reading for _, reading in seen])
    # A size or place within a pixel of the border between two words may read as either.
    clear = [(s, r) for s, r in seen if min(abs(s.size - edge) for edge in (0.41, 0.59)) > 1 / world.SIDE]
    figures["size"] = np.mean([r.size_word == world.size_word(s.size) for s, r in clear])
    figures.pop("place")
    assert min(figures.values()) >= 0.99, figures


def test_measured_quantities_are_continuous_and_exact_to_a_pixel(seen):
    single = [(s, r) for s, r in seen if s.number == 1]
    for name, bound in {"size": 0.02, "x": 0.01, "y": 0.01, "brightness": 0.01}.items():
        off = [abs(getattr(s, name) - getattr(r, name)) for s, r in single]
        assert np.mean(off) < bound, (name, np.mean(off))
    assert np.median([world.hue_distance(s.hue, r.hue) for s, r in single]) < 1.0


def test_the_new_subject_is_told_apart_from_every_base_shape(seen):
    assert all((r.shape == world.SUBJECT) == (s.shape == world.SUBJECT) for s, r in seen)
    assert world.SUBJECT not in world.BASE_SHAPES


def test_area_grows_with_size():
    areas = [world.measure(world.draw(world.Scene(size=size))).area for size in np.linspace(0.28, 0.8, 12)]
    assert np.all(np.diff(areas) > 0)
    assert areas[-1] == pytest.approx(np.pi * 0.4**2, rel=0.03)


def test_an_empty_picture_has_a_background_and_no_shape():
    reading = world.measure(Image.new("RGB", (64, 64), (128, 128, 128)))
    assert (reading.shape, reading.number, reading.background) == ("", 0, "grey")


def test_a_picture_of_another_size_reads_the_same():
    picture = world.draw(world.Scene(shape="ring", hue=120.0))
    larger = world.measure(picture.resize((256, 256), Image.Resampling.NEAREST))
    assert larger == world.measure(picture)


def test_a_shuffled_caption_says_nothing_false():
    rng = random.Random(3)
    for _ in range(200):
        scene = world.random_scene(rng)
        words = set(world.caption(scene, rng, left_out=0.3).replace(",", "").split())
        assert words and words <= set(world.caption(scene).replace(",", "").split())


def test_prompts_repeat_with_their_seed_and_keep_fixed_fields():
    assert world.batch_of_prompts(5, seed=4) == world.batch_of_prompts(5, seed=4)
    prompts = world.batch_of_prompts(20, seed=5, shape="ring")
    assert all("ring" in prompt and scene.shape == "ring" for prompt, scene in prompts)


def test_every_scene_lies_inside_the_picture():
    rng = random.Random(7)
    for _ in range(300):
        scene = world.random_scene(rng)
        alone = replace(scene, brightness=0.0, tint="", value=1.0)
        pixels = np.asarray(world.draw(alone)).max(-1)
        assert pixels[0].max() == pixels[-1].max() == pixels[:, 0].max() == pixels[:, -1].max() == 0


def test_the_data_set_shows_its_subject_and_names_it_first():
    folder = EXAMPLES / "dataset" / f"10_{world.SUBJECT}"
    pictures = sorted(folder.glob("*.png"))
    assert 12 <= len(pictures) <= 20
    for path in pictures:
        words = path.with_suffix(".txt").read_text(encoding="utf-8").strip().split(", ")
        reading = world.measure(Image.open(path))
        assert words[0] == world.SUBJECT == reading.shape
        assert f"{reading.background} background" in words and reading.colour in words


def test_a_data_set_written_again_is_the_same(tmp_path):
    folder = EXAMPLES / "dataset" / f"10_{world.SUBJECT}"
    for path in world.write_dataset(tmp_path / folder.name):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(folder / path.name)))


def test_the_regularisation_pictures_hold_no_subject_and_written_again_are_the_same(tmp_path):
    folder = EXAMPLES / "regularisation" / "1_shapes"
    written = world.write_regularisation(tmp_path)
    assert [path.name for path in written] == sorted(path.name for path in folder.glob("*.png"))
    for path in written:
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(folder / path.name)))
        text = (folder / path.name).with_suffix(".txt").read_text(encoding="utf-8")
        assert text == path.with_suffix(".txt").read_text(encoding="utf-8") and world.SUBJECT not in text


def test_the_world_imports_no_torch():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import world; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(EXAMPLES)], check=False).returncode == 0
