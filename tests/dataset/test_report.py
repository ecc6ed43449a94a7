"""``dataset.py report`` and ``duplicates``: what is found in pictures, and the pages that are looked through."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from benchmarks.duplicates import made_up, plant, score
from library.dataset import examine
from tests.data_room.made import picture
from tools import dataset

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--virtual-time-budget=2000", "--window-size=1000,1100")


def run(*argv: object) -> int:
    return dataset.main([str(word) for word in argv])


@pytest.fixture
def train(tmp_path: Path) -> Path:
    folder = tmp_path / "train" / "10_ぞび"
    picture(folder / "good.png", (512, 512), "zobi, red hair")
    picture(folder / "tiny.png", (40, 40), "zobi, " + "very long words " * 40)
    picture(folder / "bare.png", (512, 512), None)
    made_up(1).filter(ImageFilter.GaussianBlur(9)).save(folder / "soft.jpg")
    clear = np.zeros((512, 512, 4), np.uint8)
    clear[:256, :, 3], clear[:, ::7, 0] = 255, 200
    Image.fromarray(clear).save(folder / "clear.png")
    Image.new("RGB", (512, 512), "red").save(folder / "plain.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    made_up(2, (768, 512)).save(folder / "turned.jpg", exif=turned)
    (folder / "broken.png").write_bytes((folder / "good.png").read_bytes()[:5000])
    (folder / "page.png").write_text("<html>not found</html>", encoding="utf-8")
    made_up(3).save(folder / "moves.webp", save_all=True, append_images=[made_up(4)])
    (folder / "moves.txt").write_bytes("zobi, running\r\na second line\r\n".encode("utf-8-sig"))
    (folder / "scan.tiff").write_bytes(b"II*\0")
    (folder / "gone.txt").write_text("zobi", encoding="utf-8")
    return tmp_path / "train"


EXPECTED = {"tiny": "blown up", "bare": "no caption", "soft": "blurred", "clear": "50% transparent", "plain": "one colour",
            "turned": "camera's note", "broken": "is broken", "page": "web page",
            "moves": "only its first picture is used; only the first of its caption's 2 lines"}


def test_what_is_odd_about_a_picture_is_in_its_remarks(train, capsys):
    assert run("report", train, "--json", "--max_train_epochs", 2) == 0
    report = json.loads(capsys.readouterr().out)
    remarks = {Path(one["picture"]).stem: one["remarks"] for one in report["pictures"]}
    assert remarks["good"] == ""
    for name, words in EXPECTED.items():
        assert words in remarks[name], (name, remarks[name])
    assert "tokens, more than 75" in remarks["tiny"]
    assert report["steps"]["steps"] == 9 * 10 * 2 and report["tags"]["10_ぞび"]["zobi"] == 3


def test_files_that_training_passes_over_are_named(train, capsys):
    assert run("report", train) == 0
    told = capsys.readouterr().out
    assert "kinds that are not read: 1 .tiff." in told and "1 caption belongs to no picture: 10_ぞび/gone.txt" in told


def test_report_and_page_are_japanese_where_the_locale_is(train, capsys, monkeypatch):
    monkeypatch.setenv("PREFLIGHT_LANGUAGE", "ja")
    assert run("report", train) == 0
    page = (train / "_report" / "report.html").read_text(encoding="utf-8")
    assert "キャプションがありません" in capsys.readouterr().out and "キャプションがありません" in page
    assert '<html lang="ja">' in page and not re.search(r">(Tags|Pictures|Buckets|folder|Save drop list)<", page)
    assert "no caption" in (train / "_report" / "ledger.csv").read_text(encoding="utf-8-sig")


def test_the_ledger_has_a_row_for_every_picture_and_opens_in_a_spreadsheet(train, capsys):
    run("report", train)
    content = (train / "_report" / "ledger.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert content.startswith(b"\xef\xbb\xbf") and len(rows) == 10
    turned = next(row for row in rows if row["picture"] == "10_ぞび/turned.jpg")
    assert (turned["folder"], turned["repeats"], turned["size"], turned["bucket"]) == ("10_ぞび", "10", "512x768", "384x640")
    assert "10 epochs are assumed" in capsys.readouterr().out


def test_pages_need_no_network(train):
    run("report", train)
    page = (train / "_report" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 8 and not re.search(r"(src|href)=\"(?!data:)", page)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_the_page_and_its_drop_list_is_applied(train, tmp_path, capsys):
    run("report", train)
    page = (train / "_report" / "report.html").read_text(encoding="utf-8")
    tick = ("<script>for (const card of cards) box(card).checked = card.dataset.picture.includes('plain'); refresh();"
            "document.body.textContent = dropList() + '|' + count.textContent + '|' + cards.filter("
            "card => card.querySelector('img') && card.querySelector('img').naturalWidth > 0).length;</script>")
    copy = tmp_path / "copy.html"
    copy.write_text(page.replace("</body>", tick + "</body>"), encoding="utf-8")
    done = subprocess.run([CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", copy.as_uri()],
                          capture_output=True, text=True, encoding="utf-8", timeout=100, check=False)
    body = re.search(r"<body[^>]*>(.*)</body>", done.stdout, re.S)[1]
    names, ticked, shown = body.split("|")
    assert ticked == "1 of 10 ticked" and int(shown) == 8
    (tmp_path / "drop-list.json").write_text(names, encoding="utf-8")
    assert run("apply", train, tmp_path / "drop-list.json", "--yes") == 0
    assert not (train / "10_ぞび" / "plain.png").exists() and (train / "10_ぞび" / "good.png").exists()


def test_of_two_equals_the_one_with_a_caption_stays_and_what_cannot_be_read_is_named(tmp_path, capsys):
    folder = tmp_path / "1_x"
    folder.mkdir()
    made_up(5).save(folder / "more bytes.png")
    made_up(5).save(folder / "described.jpg")
    (folder / "described.txt").write_text("zobi", encoding="utf-8")
    (folder / "broken.jpg").write_bytes((folder / "described.jpg").read_bytes()[:900])
    assert run("duplicates", tmp_path) == 0
    told = capsys.readouterr().out
    assert "1_x/described.jpg = 1_x/more bytes.png" in told
    assert "left out: 1 picture that cannot be read: 1_x/broken.jpg" in told


def test_blur_is_told_from_what_is_shown():
    sharp, soft = [], []
    for seed in range(4):
        image = made_up(seed).convert("L")
        sharp.append(examine.blur(np.asarray(image, np.float32)))
        soft.append(examine.blur(np.asarray(image.filter(ImageFilter.GaussianBlur(6)), np.float32)))
    assert max(sharp) < examine.BLURRED < min(soft), (sharp, soft)


def test_near_copies_of_every_kind_are_found_and_strangers_are_not(tmp_path):
    folder = tmp_path / "10_x"
    folder.mkdir()
    planted = plant(folder, 40, 20)
    recall, wrong, _ = score(folder, planted)
    assert min(recall.values()) == 1 and wrong == 0


def test_the_largest_of_a_group_stays_and_the_others_go_aside(tmp_path, capsys):
    folder = tmp_path / "train" / "10_x"
    folder.mkdir(parents=True)
    made_up(3).save(folder / "large.png")
    made_up(3).resize((200, 200)).save(folder / "a_small.png")
    made_up(4).save(folder / "other.png")
    (folder / "a_small.txt").write_text("x", encoding="utf-8")
    assert run("duplicates", tmp_path / "train") == 0
    assert json.loads((tmp_path / "train/_report/duplicates.json").read_text(encoding="utf-8"))["drop"] == ["10_x/a_small.png"]
    assert "(best)" in (tmp_path / "train/_report/duplicates.html").read_text(encoding="utf-8")
    assert len(list(folder.iterdir())) == 4, "nothing is moved without --yes"
    run("duplicates", tmp_path / "train", "--yes")
    assert {path.name for path in folder.iterdir()} == {"large.png", "other.png"}
