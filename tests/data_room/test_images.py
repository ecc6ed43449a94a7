import random

import numpy as np
import pytest
from PIL import Image

from library.data import images
from library.data.buckets import Placement
from library.data.resize import resize, shrink
from library.util.records import UserError

RNG = np.random.RandomState
# cv2.resize(..., interpolation=cv2.INTER_AREA) of the pictures in test_shrinking_equals_opencvs_pixels, OpenCV 5.0.0
OPENCV_AREA = [
    [[9, 18, 39], [25, 46, 102], [40, 74, 166], [55, 103, 159], [71, 131, 46]],
    [[25, 47, 105], [41, 76, 169], [56, 104, 149], [71, 132, 53], [87, 161, 103]],
    [[41, 77, 172], [57, 105, 145], [72, 134, 52], [87, 162, 106], [103, 190, 169]],
]
OPENCV_HALF = [[[3, 8, 38], [5, 14, 68]], [[11, 32, 158], [13, 38, 188]]]


def noise(width, height, channels=3, seed=0):
    return RNG(seed).randint(0, 256, (height, width, channels)).astype(np.uint8)


def mean_by_area(image, size):
    """The mean of the area that each target pixel covers, in float64, by matrices of overlaps."""
    def overlaps(source, target):
        edges = np.arange(target + 1) * source / target
        pixels = np.arange(source)
        low = np.maximum(edges[:-1, None], pixels[None])
        high = np.minimum(edges[1:, None], pixels[None] + 1)
        return np.clip(high - low, 0, None) / (source / target)

    rows, columns = overlaps(image.shape[0], size[1]), overlaps(image.shape[1], size[0])
    return np.stack([rows @ image[..., channel].astype(np.float64) @ columns.T for channel in range(image.shape[2])], -1)


@pytest.mark.parametrize("source,target", [
    ((512, 512), (64, 64)), ((640, 448), (91, 64)), ((37, 53), (37, 20)), ((100, 60), (99, 7)), ((64, 64), (32, 32))])
def test_shrinking_takes_the_mean_of_the_area_a_pixel_covers(source, target):
    image = noise(*source)
    assert np.abs(shrink(image, target) - mean_by_area(image, target)).max() <= 0.51


def test_shrinking_equals_opencvs_pixels():
    image = (np.indices((7, 11)).sum(0)[..., None] * np.array([7, 13, 29]) % 256).astype(np.uint8)
    assert shrink(image, (5, 3)).tolist() == OPENCV_AREA
    block = (np.arange(16).reshape(4, 4, 1) * np.array([1, 3, 15])).astype(np.uint8)
    assert shrink(block, (2, 2)).tolist() == OPENCV_HALF


def test_growing_is_pillows_lanczos_and_other_ways_are_used_when_asked_for():
    image = noise(20, 10)
    expected = np.array(Image.fromarray(image).resize((30, 40), Image.Resampling.LANCZOS))
    assert np.array_equal(resize(image, (30, 40)), expected)
    assert np.array_equal(resize(image, (10, 40)), np.array(Image.fromarray(image).resize((10, 40), Image.Resampling.LANCZOS)))
    kinds = ("area", "lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic")
    made = {kind: resize(image, (15, 8), kind) for kind in kinds}
    assert np.array_equal(made["bilinear"], made["linear"]) and np.array_equal(made["bicubic"], made["cubic"])
    assert len({one.tobytes() for one in made.values()}) == 5
    flat = np.full((9, 9, 3), 77, np.uint8)
    assert all((resize(flat, size, kind) == 77).all() for kind in kinds for size in ((5, 5), (13, 13)))


def test_a_picture_is_cut_from_the_middle_of_what_was_scaled():
    image = noise(100, 40)
    fitted = images.fit(image, Placement((32, 32), (80, 32), 0.0), None, None)
    assert np.array_equal(fitted.pixels, resize(image, (80, 32))[:, 24:56]) and fitted.original == (100, 40)


def test_a_random_cut_draws_columns_before_rows_as_kohya_does():
    image = noise(60, 50)
    fitted = images.fit(image, Placement((32, 32), (60, 50), 0.0), None, random.Random(3))
    rng = random.Random(3)
    left, top = rng.randint(0, 28), rng.randint(0, 18)
    assert np.array_equal(fitted.pixels, image[top:top + 32, left:left + 32])
    without = images.cut_at_random(image, (32, 32), random.Random(3))
    rng = random.Random(3)
    top, left = rng.randint(0, 18), rng.randint(0, 28)
    assert np.array_equal(without.pixels, image[top:top + 32, left:left + 32])


def test_a_face_crop_holds_the_face_in_its_middle_at_the_size_asked_for():
    image = np.zeros((400, 600, 3), np.uint8)
    image[150:250, 250:350] = 255  # a face of 100 pixels around (300, 200)
    fitted = images.cut_around_face(image, (300, 200, 100, 100), (128, 128), images.FaceCrop(2.0, 2.0), random.Random(0))
    rows, columns = np.nonzero(fitted.pixels[..., 0] > 127)
    assert fitted.pixels.shape == (128, 128, 3)
    assert abs(np.ptp(rows) - 63) <= 1 and abs(rows.mean() - 63.5) <= 1 and abs(columns.mean() - 63.5) <= 1
    shifted = {images.cut_around_face(image, (300, 200, 100, 100), (128, 128), images.FaceCrop(2.0, 2.0, True),
                                      random.Random(seed)).cut.left for seed in range(5)}
    assert len(shifted) > 1


@pytest.mark.parametrize("name,face", [
    ("a_120_80_64_32.png", (120, 80, 64, 32)), ("a_1_2_3.png", None), ("a_0_1_2_3.png", None), ("a_b_c_d_e.png", None)])
def test_face_data_stands_in_the_last_four_parts_of_a_name(tmp_path, name, face):
    assert images.face_of(tmp_path / name) == face


# ------------------------------------------------------------------------------------------------------------- reading


def test_photos_are_turned_upright_but_for_kohya(tmp_path):
    upright = np.zeros((20, 40, 3), np.uint8)
    upright[:, :10] = 255
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        back = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
                6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1)}
        stored = np.ascontiguousarray(back[orientation](upright))
        Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
        assert np.array_equal(images.read(tmp_path / "a.png"), upright), orientation
        assert np.array_equal(images.read(tmp_path / "a.png", upright=False), stored)


def test_transparency_is_dropped_or_kept_as_a_fourth_channel(tmp_path):
    pixels = noise(8, 8, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(images.read(tmp_path / "a.png"), pixels[..., :3])
    assert np.array_equal(images.read(tmp_path / "a.png", alpha=True), pixels)
    Image.fromarray(pixels[..., :3]).save(tmp_path / "b.png")
    assert (images.read(tmp_path / "b.png", alpha=True)[..., 3] == 255).all()


def test_palette_grey_cmyk_and_sixteen_bit_pictures_become_eight_bit_colours(tmp_path):
    grey = RNG(1).randint(0, 256, (8, 8)).astype(np.uint8)
    Image.fromarray(grey).convert("P").save(tmp_path / "p.png")
    Image.fromarray(grey).save(tmp_path / "l.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "i.png")
    for name in ("p", "l", "i"):
        assert np.array_equal(images.read(tmp_path / f"{name}.png"), np.repeat(grey[..., None], 3, 2)), name
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "c.jpg")
    assert np.abs(images.read(tmp_path / "c.jpg").astype(int) - [255, 0, 0]).max() < 8


def test_a_picture_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "half.png"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"half\.png"):
        images.read(path)


# -------------------------------------------------------------------------------------------------------- augmentation


def test_colours_shift_one_time_in_three_and_only_little():
    image = noise(16, 16)
    changed = [shifted for seed in range(200)
               if not np.array_equal(shifted := images.shift_colours(image.copy(), random.Random(seed)), image)]
    assert 0.2 < len(changed) / 200 < 0.45
    assert max(np.abs(one.mean() - image.mean()) for one in changed) < 40


def test_colour_shifts_by_power_equal_kohyas_formula():
    image = noise(16, 16)
    seed = next(seed for seed in range(100) if (rng := random.Random(seed)).random() <= 0.33 and rng.random() <= 0.5)
    rng = random.Random(seed)
    rng.random(), rng.random()
    expected = np.clip(image.astype(np.float64) ** rng.uniform(0.95, 1.05), 0, 255).astype(np.uint8)
    assert np.array_equal(images.shift_colours(image, random.Random(seed)), expected)


def test_tensors_are_scaled_as_torchvision_scales_them():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    tensor = images.to_tensor(pixels)
    expected = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    assert np.array_equal(tensor[0].numpy().ravel(), expected) and tensor.shape == (3, 16, 16)
    assert images.to_mask(pixels[..., 0]).max() == 1 and images.to_mask(pixels[..., 0]).shape == (1, 16, 16)
