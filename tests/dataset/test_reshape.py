"""``resize``, ``crop``, ``transparent``, ``convert``: pictures made anew, and taken back."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.data.buckets import BucketRules
from library.data.images import fit, read
from tests.data_room.made import picture
from tools import dataset


@pytest.fixture
def train(tmp_path: Path) -> Path:
    folder = tmp_path / "train" / "10_x"
    picture(folder / "wide.png", (300, 200))
    clear = np.zeros((80, 60, 4), np.uint8)
    clear[:40] = (255, 0, 0, 255)
    Image.fromarray(clear).save(folder / "clear.png")
    (folder / "wide_0300x0200_sd.npz").write_bytes(b"old latents")
    return tmp_path / "train"


def run(command: str, train: Path, *more: object) -> int:
    return dataset.main([command, str(train), *map(str, more), "--yes"])


def size(train: Path, name: str) -> tuple[int, int]:
    with Image.open(train / "10_x" / name) as image:
        return image.size


def everything(train: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (train / "10_x").iterdir()}


@pytest.mark.parametrize("command", [("resize", "--side", 100), ("crop",), ("crop", "--to", "bucket"), ("transparent",),
                                     ("convert", "--to", "webp")], ids=lambda words: words[0])
def test_every_command_is_dry_without_yes_and_taken_back_byte_for_byte(train, command):
    before = everything(train)
    name, *more = command
    assert dataset.main([name, str(train), *map(str, more)]) == 0 and everything(train) == before
    assert run(name, train, *more) == 0 and everything(train) != before
    dataset.main(["undo", str(train)])
    assert everything(train) == before


def test_resizing_scales_down_alone_and_drops_the_cached_latents(train):
    run("resize", train, "--side", 150)
    assert size(train, "wide.png") == (150, 100) and size(train, "clear.png") == (60, 80)
    assert not (train / "10_x" / "wide_0300x0200_sd.npz").exists()


def test_cutting_to_the_bucket_gives_what_training_would_see(train):
    pixels = read(train / "10_x" / "wide.png")
    rules = BucketRules((512, 512))
    run("crop", train, "--to", "bucket")
    assert np.array_equal(read(train / "10_x" / "wide.png"), fit(pixels, rules.place((300, 200)), None, None).pixels)


def test_transparent_parts_get_the_colour_and_others_stay(train):
    run("transparent", train, "--colour", "#00ff00")
    pixels = read(train / "10_x" / "clear.png", alpha=True)
    assert pixels[0, 0].tolist() == [255, 0, 0, 255] and pixels[79, 0].tolist() == [0, 255, 0, 255]
    assert size(train, "wide.png") == (300, 200)


def test_converting_keeps_captions_and_refuses_to_meet_another_picture(train, capsys):
    run("convert", train, "--to", "webp")
    assert {"wide.webp", "clear.webp", "wide.txt"} <= {path.name for path in (train / "10_x").iterdir()}
    picture(train / "10_x" / "wide.png", (50, 50), None)
    assert run("convert", train, "--to", "png") == 1 and "is there already" in capsys.readouterr().err
