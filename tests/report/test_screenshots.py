"""Pages as a browser shows them: the curves and the pictures are there to be seen, without a network."""

import math
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from library.report import gallery, html
from library.report.page import write_page
from library.report.record import RunReport, SampleLine

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--force-color-profile=srgb"]
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


def shown(page, folder, size="900,1500"):
    """The page's pixels in a window of ``size``."""
    file = folder / "shot.png"
    subprocess.run([BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={size}", f"--screenshot={file}",
                    page.as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"), int)


def seen(pixels, colour):
    """How many pixels have the colour, or nearly."""
    return int((np.abs(pixels - np.array(colour)).max(-1) < 24).sum())


def test_a_browser_shows_a_runs_curve_and_its_pictures(tmp_path):
    run = RunReport("はじめて", tmp_path)
    run.step_numbers = list(range(1, 101))
    run.losses = [0.2 * math.exp(-n / 40) + 0.01 * (n % 3) for n in run.step_numbers]
    for step, colour in ((50, (250, 20, 20)), (100, (20, 200, 40))):
        path = tmp_path / f"s{step}.png"
        Image.new("RGB", (64, 64), colour).save(path)
        run.samples.append(SampleLine(path, "a star", 0, step))
    pixels = shown(write_page(run), tmp_path)
    assert seen(pixels, (0x1F, 0x4E, 0x8C)) > 300  # the smoothed loss
    assert min(seen(pixels, (250, 20, 20)), seen(pixels, (20, 200, 40))) > 4000


def test_a_browser_shows_every_picture_of_a_grid_and_frames_the_suggested_one(tmp_path):
    colours = [(250, 20, 20), (20, 200, 40), (30, 60, 240)]
    spots = [gallery.Spot([gallery.Photo(Image.new("RGB", (64, 64), colour), "a cell")], best=place == 1)
             for place, colour in enumerate(colours)]
    page = gallery.page("grid", "", [gallery.Table("", ["1", "2", "3"], ["strength 1"], [spots])])
    pixels = shown(html.write(tmp_path / "grid.html", page), tmp_path, "700,500")
    assert min(seen(pixels, colour) for colour in colours) > 5000
    assert seen(pixels, (0xD9, 0x8E, 0x00)) > 300
