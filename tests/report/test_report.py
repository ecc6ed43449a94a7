"""The report of a run: curves, before and after, last words, page."""

import hashlib
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from library.report.before_after import before_after, over_time, pairs, thin
from library.report.curves import plot, smooth
from library.report.final_words import duration, final_words, size
from library.report.page import page, write_page
from library.report.record import BEFORE_AND_AFTER, LOSS_PLOT, DataLine, FileLine, RunReport, SampleLine, Setting

SECRET = "hf_" + "A1b2C3d4" * 4


def sample(folder: Path, index: int, step: int, colour: str, epoch: int | None = None) -> SampleLine:
    path = folder / f"{index}_{step}.png"
    Image.new("RGB", (64, 64), colour).save(path)
    return SampleLine(path, f"prompt <{index}> & 猫", index, step, epoch)


@pytest.fixture
def report(tmp_path):
    samples = [sample(tmp_path, index, step, colour) for index in (0, 1)
               for step, colour in ((0, "red"), (10, "green"), (20, "blue"))]
    lora = tmp_path / "線画_lora.safetensors"
    lora.write_bytes(b"lora")
    return RunReport(
        name="線画_lora", output_dir=tmp_path,
        command=f"accelerate launch train_network.py --huggingface_token {SECRET}",
        program="torch 2", base_model="examples/tiny-sd", family="Stable Diffusion",
        settings=[Setting("network_dim", "4", "command line"), Setting("seed", "1", "default")],
        data=[DataLine("10_zobi", 6, 10, 6), DataLine("1_reg", 6, 10, 0, is_reg=True)], buckets=[("64x64", 12)],
        steps=20, epochs=2, seconds=65.0, step_numbers=list(range(1, 21)), losses=[1 / step for step in range(1, 21)],
        rates={"unet": [1e-4] * 20, "textencoder": [5e-5] * 20}, samples=samples,
        files=[FileLine(lora, 4, hashlib.sha256(b"lora").hexdigest(), 2, 20, ("ComfyUI", "Forge", "diffusers"))],
        states=[tmp_path / "state"], warnings=["the loss rose <b>once</b>"])


class Reader(HTMLParser):
    """Tags that are open, links and sources that were seen."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attrs):
        return None

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_well_formed_and_asks_no_network(report):
    reader = Reader()
    reader.feed(page(report))
    assert reader.open == []
    outside = [one for one in reader.addresses if re.match(r"(https?:)?//", one)]
    assert outside == [] and "<script" not in page(report)


def test_the_page_shows_settings_with_origins_data_files_warnings_and_command(report):
    text = page(report)
    for words in ("network_dim", "command line", "10_zobi", "regularisation", "64x64", report.files[0].sha256,
                  "ComfyUI", "accelerate launch train_network.py", "the loss rose &lt;b&gt;once&lt;/b&gt;", "1 min 5 s",
                  "<svg"):
        assert words in text, words


def test_the_page_is_japanese_where_the_locale_is(report, monkeypatch):
    monkeypatch.setenv("PREFLIGHT_LANGUAGE", "ja")
    shown = page(report)
    assert '<html lang="ja">' in shown and "20 ステップ、2 エポック" in shown and "ComfyUI、Forge、diffusers" in shown
    headings = set(re.findall(r"<(?:h2|th|summary)[^>]*>([^<]+)<", shown))
    assert {"曲線", "データ", "設定", "読み込めるソフト", "同じ学習をもう一度実行する"} <= headings
    assert [words for words in headings if re.fullmatch(r"[A-Za-z ]+", words)] == []


def test_the_page_holds_every_picture_itself(report):
    assert page(report).count("data:image/png;base64,") == len(over_time(report.samples)) == 2


def test_the_loss_plot_is_not_shown_twice(report, tmp_path):
    report.pictures = {LOSS_PLOT: plot(report, tmp_path / "loss.png"), "Before": report.samples[0].path}
    assert page(report).count("data:image/png;base64,") == 3 and "Before" in page(report)


def test_samples_that_stand_side_by_side_already_are_not_shown_again(report):
    report.pictures = {BEFORE_AND_AFTER: report.samples[0].path}
    assert "Samples over time" in page(report)
    report.samples = [line for line in report.samples if line.step != 10]
    assert "Samples over time" not in page(report)


def test_no_token_reaches_the_page(report):
    assert SECRET not in page(report) and "accelerate" in page(report)


def test_the_page_links_its_files_relative_to_its_own_folder(report):
    written = write_page(report)
    reader = Reader()
    reader.feed(written.read_text(encoding="utf-8"))
    from urllib.parse import unquote
    links = [unquote(one) for one in reader.addresses if one.endswith(".safetensors")]
    assert links == ["線画_lora.safetensors"] and (written.parent / links[0]).is_file()
    below = write_page(report, report.output_dir / "name-report" / "report.html")
    assert 'href="../%E7%B7%9A' in below.read_text(encoding="utf-8")


def test_writing_the_page_leaves_no_half_file(report):
    write_page(report)
    assert not list(report.output_dir.glob("*.tmp"))


def test_a_run_that_did_nothing_still_has_a_page(tmp_path):
    assert "<h1>x</h1>" in page(RunReport("x", tmp_path))


def test_the_loss_plot_is_a_picture_of_the_curve(report, tmp_path):
    path = plot(report, tmp_path / "out" / "loss.png")
    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert (31, 78, 140) in colours, "the smoothed curve"


def test_a_name_with_dollars_and_a_loss_without_number_can_be_plotted(report, tmp_path):
    plot(replace(report, name="a$b_{c$", losses=[math.nan, *report.losses[1:]]), tmp_path / "loss.png")


def test_smoothing_keeps_a_constant_and_begins_at_the_first_value():
    assert smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    assert smooth([3.0, 1.0])[0] == 3.0
    assert smooth([1.0, math.nan, 1.0]) == pytest.approx([1.0, 1.0, 1.0])


def test_before_and_after_puts_first_and_last_side_by_side(report, tmp_path):
    path = before_after(report.samples, tmp_path / "both.png")
    with Image.open(path) as picture:
        picture.load()
    middle = picture.height - 8 - 64
    row = [picture.getpixel((x, middle)) for x in range(picture.width)]
    assert row.index((255, 0, 0)) < row.index((0, 0, 255)) and (0, 128, 0) not in row
    assert [(first.step, last.step) for first, last in pairs(report.samples)] == [(0, 20), (0, 20)]


def test_before_and_after_needs_two_pictures_of_a_prompt(report, tmp_path):
    assert before_after(report.samples[:1], tmp_path / "both.png") is None
    assert not (tmp_path / "both.png").exists()


def test_pictures_that_are_gone_are_passed_over(report, tmp_path):
    report.samples[0].path.unlink()
    assert [(first.step, last.step) for first, last in pairs(report.samples)] == [(10, 20), (0, 20)]


def test_thinning_keeps_first_and_last():
    lines = list(range(100))
    assert thin(lines, 5) == [0, 25, 50, 74, 99] and thin(lines[:3], 5) == [0, 1, 2]


def test_the_last_words_say_what_was_made_where_and_what_next(report):
    report.losses = [1 / step for step in range(1, 101)]
    text = "\n".join(final_words(report))
    for words in (str(report.files[0].path), "<lora:線画_lora:1>", "fell", "1 min 5 s", "--resume", "ComfyUI"):
        assert words in text, words


def test_the_last_words_name_the_way_of_the_programs_that_load_the_file(report):
    def told(*programs):
        return "\n".join(final_words(replace(report, files=[replace(report.files[0], loads_in=programs)])))

    assert "<lora:" in told("ComfyUI", "Forge") and "Load LoRA node" not in told("ComfyUI", "Forge")
    assert "Load LoRA node" in told("ComfyUI", "diffusers") and "<lora:" not in told("ComfyUI", "diffusers")
    assert "--save_format=comfy" in told() and "Next:" not in told()


def test_of_a_few_noisy_steps_no_trend_is_told(report):
    assert "mean loss" not in "\n".join(final_words(report))


def test_the_last_words_of_a_stopped_run_say_why(report):
    report.stopped = "the loss became NaN"
    assert "the loss became NaN" in "\n".join(final_words(report))


def test_durations_and_sizes_are_read_at_a_glance():
    assert [duration(s) for s in (4.4, 65, 7620)] == ["4 s", "1 min 5 s", "2 h 7 min"]
    assert [size(n) for n in (812, 41_200, 18_500_000, 2_100_000_000)] == ["812 bytes", "41.2 KB", "18.5 MB", "2.1 GB"]


def test_a_japanese_name_draws_no_chatter_of_the_plot_library(tmp_path, recwarn):
    from library.report import curves

    curves.plot(RunReport(name="画風", output_dir=tmp_path, step_numbers=[1, 2], losses=[0.2, 0.1]), tmp_path / "loss.png")
    assert not [str(one.message) for one in recwarn if "Glyph" in str(one.message)]


def test_the_last_words_of_a_slider_name_both_its_ends(report):
    assert "<lora:線画_lora:1> or <lora:線画_lora:-1>" in final_words(replace(report, slides=True))[-1]
    assert ":-1>" not in final_words(report)[-1]


def test_the_page_of_a_slider_shows_its_response_as_a_curve_and_a_table(report):
    shown = page(replace(report, slider=[(-1.0, -0.9), (0.0, 0.0), (1.0, 1.1)], slider_words=["R2 0.99"]))
    section = shown[shown.index("<h2>Slider</h2>"):shown.index("<h2>Samples")]
    assert "<svg" in section and "-0.900" in section and "R2 0.99" in section
    assert "<h2>Slider</h2>" not in page(report)
