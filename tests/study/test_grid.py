"""Grids: axes as people write them, files of a run found by kohya's names, pictures that equal those drawn one by one."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.sample.prompts import PromptLine
from library.save import series
from library.study import axes, grid
from library.study.likeness import apart
from library.util.records import UserError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture
def run_folder(tmp_path):
    """A finished run's files by name; one stray series and one state folder beside them."""
    folder = tmp_path / "出力 out"
    folder.mkdir()
    for name in ("anna-000001", "anna-000002", "anna-000010", "anna", "anna-step00000100", "anna-best", "bob-01", "bob-2"):
        (folder / f"{name}.safetensors").touch()
    (folder / "anna-000001-state").mkdir()
    return folder


def labels(members):
    return [m.label for m in members]


def test_files_of_a_run_are_found_by_kohyas_names_whichever_is_named(run_folder):
    for name in ("anna.safetensors", "anna", "anna-000002.safetensors", "anna-step00000100.safetensors"):
        members = series.of_run(run_folder / name)
        assert sorted(labels(members)) == sorted(["epoch 1", "epoch 2", "epoch 10", "step 100", "last"])
        assert members[-1].label == "last"


def test_numbers_of_any_width_belong_to_one_series(run_folder):
    assert labels(series.of_run(run_folder / "bob.safetensors")) == ["epoch 1", "epoch 2"]
    assert set(labels(series.every(series.of_run(run_folder / "anna"), 2))) == {"epoch 2", "epoch 10", "step 100", "last"}


def test_a_missing_run_is_answered_with_the_near_name(run_folder):
    with pytest.raises(UserError) as caught:
        series.of_run(run_folder / "ana")
    assert "anna" in caught.value.problems[0].remedy


@pytest.mark.parametrize(("text", "found"), [
    ("1, 2,5", [1, 2, 5]), ("1-4", [1, 2, 3, 4]), ("1-10 (+3)", [1, 4, 7, 10]), ("3-1 (-1)", [3, 2, 1])])
def test_whole_numbers_and_ranges_are_read_as_image_programs_write_them(text, found):
    assert axes.numbers(text, whole=True) == found


def test_fractions_are_read_with_step_or_count():
    assert axes.numbers("0.5-1 (+0.1)") == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert axes.numbers("0.5-1 [6]") == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert axes.numbers("-1, 0, 0.5") == [-1, 0, 0.5]


def given(folder, prompt="anna, red hat", main="anna.safetensors"):
    return axes.Given(axes.Cell(PromptLine(prompt, seed=1), folder / main), (), folder)


def test_search_and_replace_reaches_into_lora_tags_and_finds_numbers_of_any_width(run_folder):
    here = given(run_folder, "anna <lora:anna-01:0.5>")
    axis = axes.axis("replace=-01,-02,-10", here)
    files = [axes.with_tags(cell, here).loras[-1] for cell in axes.cells(here.cell, [axis]).values()]
    assert [path.name for path, _ in files] == ["anna-000001.safetensors", "anna-000002.safetensors", "anna-000010.safetensors"]
    assert all(strength == 0.5 for _, strength in files)
    assert axes.with_tags(here.cell, here).line.prompt == "anna"


def test_epochs_and_strengths_make_one_grid_and_strength_zero_is_the_base_model(run_folder):
    here = given(run_folder)
    found = axes.cells(here.cell, [axes.axis("epoch=1-2,last", here), axes.axis("strength=0,0.7", here)])
    assert [[(p.stem, s) for p, s in cell.loras] for cell in found.values()] == [
        [], [("anna-000001", 0.7)], [], [("anna-000002", 0.7)], [], [("anna", 0.7)]]


def test_a_word_is_replaced_after_the_prompt_is_chosen_whatever_the_order_of_the_axes(run_folder):
    here = given(run_folder, "red cat")
    for order in (("replace=red,blue", "prompt=red dog|red cow"), ("prompt=red dog|red cow", "replace=red,blue")):
        found = {cell.line.prompt for cell in axes.cells(here.cell, [axes.axis(text, here) for text in order]).values()}
        assert found == {"red dog", "blue dog", "red cow", "blue cow"}


@pytest.mark.parametrize("text", ["strenght=1", "strength=a", "strength=0.1-1", "epoch=7", "replace=green,blue", "prompt=3",
                                  "size=wide", "size=512", "steps=0", "seed=-1", "sampler=foo,ddim"])
def test_an_axis_that_cannot_be_read_is_answered_with_an_example_or_what_there_is(run_folder, text):
    with pytest.raises(UserError) as caught:
        axes.axis(text, given(run_folder))
    assert caught.value.problems[0].remedy


def test_of_a_run_that_saved_by_steps_no_epochs_are_drawn(run_folder):
    for name in ("cleo-step00000100", "cleo-step00000200", "cleo"):
        (run_folder / f"{name}.safetensors").touch()
    here = replace(given(run_folder), cell=axes.Cell(PromptLine("red cat"), run_folder / "cleo.safetensors"))
    assert [point.label for point in axes.axis("step=all", here).points] == ["step 100", "step 200", "last"]
    with pytest.raises(UserError, match="numbered by step, not by epoch") as caught:
        axes.axis("epoch=all", here)
    assert "step=all" in caught.value.problems[0].remedy


def test_the_suggestion_is_the_mildest_cell_that_shows_nearly_all_of_the_change():
    def place(n):
        return (0, 0, n)

    scores = {place(n): grid.Score(d) for n, d in enumerate([0.0, 0.2, 0.46, 0.5, 2.0])}
    assert grid.suggest(scores)[0] == place(2)
    with_subject = {place(n): grid.Score(0.5, s, 0.2) for n, s in enumerate([0.5, 0.9, 0.7])}
    assert grid.suggest(with_subject)[0] == place(1)


def test_distance_is_nothing_for_one_picture_and_about_one_for_strangers():
    import torch

    one, other = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert apart(one, one) == 0
    assert apart(one * 5, other * 5) == pytest.approx(apart(one, other)) == pytest.approx(1, abs=0.05)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A grid drawn by the program over a file that does something."""
    import torch
    import xyz_grid

    from library.families import registry
    from library.families.interface import LoadRequest
    from library.util import command
    from networks import registry as networks
    from networks.request import NetworkRequest

    folder = tmp_path_factory.mktemp("grid")
    family = registry.get("sd1")
    parts = family.load(LoadRequest(str(ROOT / "examples" / "tiny-sd"), family.Options()))
    torch.manual_seed(0)
    network = networks.create("networks.lora", NetworkRequest(family.adapter_targets(parts), 4, 4, denoiser=parts.denoiser,
                                                              text_encoders=parts.text_encoders))
    for name, tensor in network.named_parameters():
        if "lora_up" in name:
            tensor.data.normal_(std=0.05)
    for name in ("star-000001", "star"):
        network.save_weights(folder / f"{name}.safetensors", None, {})
    argv = ["--pretrained_model_name_or_path", str(ROOT / "examples" / "tiny-sd"), "--lora", str(folder / "star"), "--x",
            "epoch=none,1,last", "--y", "strength=0.5,1", "--prompt", "red circle --w 64 --h 64 --s 3 --l 3", "--batch", "2",
            "--score", "--seed", "5", "--output", str(folder / "grid.png")]
    assert command.run(xyz_grid.setup_parser(), xyz_grid.work, argv) == 0
    return folder


def test_the_grid_is_a_picture_with_its_settings_inside_and_a_page_without_a_network(drawn):
    with Image.open(drawn / "grid.png") as picture:
        text = picture.text["parameters"]
        assert picture.width > 3 * 96 and picture.height > 2 * 96
    assert text.startswith("red circle\n") and "X Type: epoch" in text and "Seed: 5" in text
    settings = json.loads(text.split("\ngrid: ")[1])
    assert len(settings["cells"]) == 6 and settings["axes"]["y"]["values"] == ["0.5", "1"]
    assert settings["cells"][0]["score"]["distance"] == 0 and settings["cells"][5]["score"]["distance"] > 0.01
    page = (drawn / "grid.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png') == 12 and "http" not in page


def test_a_cell_is_the_picture_that_is_drawn_alone(drawn):
    from library.sample.images import generate
    from library.sample.loras import hung
    from library.study.drawing import Asked, open_model

    opened = open_model(Asked(str(ROOT / "examples" / "tiny-sd")))
    line = PromptLine("red circle", width=64, height=64, steps=3, scale=3.0, seed=6)
    with hung(opened.family, opened.parts, [(drawn / "star.safetensors", 1.0)]):
        alone = generate(opened.family, opened.parts, [line], opened.options)[0]
    plain = generate(opened.family, opened.parts, [line], opened.options)[0]
    cell = axes.Cell(line, drawn / "star.safetensors")
    plan = grid.Plan(cell, axes.NOTHING, axes.NOTHING, axes.axis("strength=1,0.5", axes.Given(cell)), axes.Given(cell))
    found = grid.draw(plan, opened).cells[0, 0, 0].pictures[0]
    assert np.abs(np.asarray(alone, int) - np.asarray(found, int)).max() <= 1
    assert np.abs(np.asarray(alone, int) - np.asarray(plain, int)).max() > 10
