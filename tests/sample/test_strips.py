"""Pictures side by side."""

import pytest
from PIL import Image, ImageFont

from library.sample import strips
from library.sample.strips import Cell, Row, font_for, strip, wrap


def colour(name, size=(64, 64)):
    return Image.new("RGB", size, name)


def test_pictures_stand_side_by_side_in_their_order_and_size():
    sheet = strip([Row((Cell(colour("red")), Cell(colour("blue"))))], scale=1)
    assert sheet.size == (64 * 2 + 3 * 8, 64 + 2 * 8)
    assert sheet.getpixel((8 + 32, 40)) == (255, 0, 0) and sheet.getpixel((8 + 64 + 8 + 32, 40)) == (0, 0, 255)


def test_small_pictures_are_magnified_without_blur():
    picture = Image.new("RGB", (2, 2))
    picture.putpixel((1, 1), (255, 0, 0))
    sheet = strip([Row((Cell(picture),))])
    assert sheet.size == (128 + 16, 128 + 16)
    assert {pixel for _, pixel in sheet.crop((8, 8, 136, 136)).getcolors()} == {(0, 0, 0), (255, 0, 0)}


def test_captions_stand_above_and_never_cover_a_picture():
    cells = Cell(colour("red"), "before"), Cell(colour("blue"), "a much longer caption that wraps")
    sheet = strip([Row(cells, "title")], "heading", scale=2)
    reds = sum(count for count, pixel in sheet.getcolors(1 << 16) if pixel == (255, 0, 0))
    assert reds == 128 * 128
    dark = sheet.convert("L").point(lambda value: 255 * (value < 60)).getbbox()
    assert dark is not None and dark[1] < 30, "the heading is written at the top"


def test_rows_can_stand_abreast_in_columns_that_line_up():
    rows = [Row((Cell(colour(name)),)) for name in ("red", "blue", "lime")]
    sheet = strip(rows, scale=1, columns=2)
    assert sheet.size == (2 * 64 + 3 * 8 + 16, 2 * 64 + 3 * 8)
    right = 8 + 64 + 3 * 8
    assert [sheet.getpixel(place) for place in ((8, 8), (right, 8), (8, 80), (right, 80))] == [
        (255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 255)]


def test_rows_of_different_width_fit_in_one_sheet():
    sheet = strip([Row((Cell(colour("red")),)), Row((Cell(colour("blue")), Cell(colour("blue"))))], scale=1)
    assert sheet.size == (64 * 2 + 3 * 8, 2 * 64 + 3 * 8)


@pytest.mark.parametrize("text", ["plain", "é ü ñ", "猫、座る", "кот", "🐈 cat", "\u0000control", ""])
def test_any_text_can_be_written(text):
    strip([Row((Cell(colour("red"), text),), text)], text)


def test_what_no_font_can_show_becomes_a_question_mark(monkeypatch):
    monkeypatch.setattr(strips, "_system_fonts", lambda size: ())
    assert font_for("a 猫 cat", 12)[1] == "a ? cat"


def test_a_pillow_without_truetype_still_writes(monkeypatch):
    monkeypatch.setattr(strips, "_own_font", lambda size: ImageFont.load_default_imagefont())
    monkeypatch.setattr(strips, "_system_fonts", lambda size: ())
    strip([Row((Cell(colour("red"), "a 猫 é cat"),))])


def test_long_texts_are_wrapped_and_end_in_an_ellipsis():
    font = ImageFont.load_default(12)
    lines = wrap("one two three four five six seven eight nine ten " * 5, font, 128)
    assert len(lines) == 3 and lines[-1].endswith("...")
    assert all(font.getlength(one) <= 128 for one in lines)
