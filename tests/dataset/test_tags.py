"""``dataset.py tags``, ``apply`` and ``undo``: captions as people have them, changed and taken back."""

import json
from pathlib import Path

import pytest

from library.dataset import journal, slots, tags
from tests.data_room.made import picture
from tools import dataset

FOLDER = "10_ぞび"


def run(*argv: object) -> int:
    return dataset.main([str(word) for word in argv])


@pytest.fixture
def train(tmp_path: Path) -> Path:
    folder = tmp_path / "train set" / FOLDER
    picture(folder / "a.png", caption="1girl, striped shirt, red_hair, vertical stripes, smile")
    picture(folder / "b.png", caption="solo, vertical-striped shirt, zobi, red hair")
    (folder / "a.txt").write_bytes("1girl, 縞, striped shirt, red_hair, vertical stripes, smile".encode("cp932"))
    (folder / "b.txt").write_text("solo, vertical-striped shirt, zobi, red hair\nsecond line", encoding="utf-16")
    return tmp_path / "train set"


def texts(train: Path) -> list[bytes]:
    return [(train / FOLDER / name).read_bytes() for name in ("a.txt", "b.txt")]


MERGE = "striped shirt, vertical stripes, vertical-striped shirt -> striped shirt"


def test_tags_are_merged_pruned_and_put_in_front_and_every_byte_comes_back(train, capsys):
    before = texts(train)
    command = ("tags", train, "--merge", MERGE, "--prune", "1girl, solo", "--activate", "zobi")
    assert run(*command) == 0 and texts(train) == before, "without --yes nothing is changed"
    assert "Nothing was" in capsys.readouterr().out
    assert run(*command, "--yes") == 0
    assert [text.decode("utf-8") for text in texts(train)] == [
        "zobi, 縞, striped shirt, red_hair, smile\n", "zobi, striped shirt, red hair\nsecond line\n"]
    assert run("undo", train) == 0 and texts(train) == before


def test_stale_caches_of_text_go_aside_with_a_caption_and_latents_stay(train):
    for name in ("a_te_outputs.npz", "a_0064x0064_sd.npz", "ab_te_outputs.npz", "metadata_cache.json"):
        (train / FOLDER / name).write_text("{}", encoding="utf-8")
    run("tags", train, "--prune", "smile", "--yes")
    left = {path.name for path in (train / FOLDER).iterdir()}
    assert {"a_0064x0064_sd.npz", "ab_te_outputs.npz"} <= left and not {"a_te_outputs.npz", "metadata_cache.json"} & left


def test_undo_stops_where_a_file_was_changed_since_and_force_keeps_that_too(train, capsys):
    run("tags", train, "--prune", "smile", "--yes")
    (train / FOLDER / "a.txt").write_text("by hand", encoding="utf-8")
    assert run("undo", train) == 1 and "changed since" in capsys.readouterr().err
    assert run("undo", train, "--force") == 0
    kept = list((train / journal.UNDO).rglob("undone/*/a.txt"))
    assert "縞" in (train / FOLDER / "a.txt").read_bytes().decode("cp932")
    assert [path.read_text(encoding="utf-8") for path in kept] == ["by hand"]


def test_a_command_that_was_broken_off_is_undone(train):
    before = texts(train)

    def fails() -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.carry_out(train, "x", [journal.Change(train / FOLDER / "a.txt", lambda: b"new"),
                                       journal.Change(train / FOLDER / "b.txt", fails)])
    assert texts(train)[0] == b"new"
    run("undo", train)
    assert texts(train) == before


def test_a_drop_list_moves_pictures_and_what_belongs_to_them_aside(train, tmp_path):
    (train / FOLDER / "a_0064x0064_sd.npz").write_bytes(b"x")
    names = tmp_path / "drop-list.json"
    names.write_text(json.dumps({"drop": [f"{FOLDER}/a.png"]}), encoding="utf-8")
    everything = {path.name for path in (train / FOLDER).iterdir()}
    assert run("apply", train, names, "--yes") == 0
    assert {path.name for path in (train / FOLDER).iterdir()} == {"b.png", "b.txt"}
    run("undo", train)
    assert {path.name for path in (train / FOLDER).iterdir()} == everything


def test_a_drop_list_of_another_set_changes_nothing(train, tmp_path, capsys):
    names = tmp_path / "list.txt"
    names.write_text("../secret.png\n", encoding="utf-8")
    assert run("apply", train, names, "--yes") == 1 and "no pictures of" in capsys.readouterr().err


def test_tags_are_sorted_by_frequency_within_their_folder(train):
    assert tags.by_frequency({"c": 3, "b": 2, "red hair": 9}, keep=1)(["a", "b", "red_hair", "c"]) == ["a", "red_hair", "c", "b"]


def test_slots_order_tags_and_missing_ones_are_named(train, capsys):
    order = slots.read_order("pose, emotion, composition, object detail")
    words = ["zobi", "holding sword", "from above", "smile", "mystery", "standing"]
    assert order.sorted(words, keep=1) == ["zobi", "standing", "smile", "from above", "holding sword", "mystery"]
    assert order.missing(["smile", "standing"]) == ["composition", "object detail"]
    assert run("tags", train, "--order", "emotion, pose", "--check") == 0
    assert "slot pose: missing in 2 of 2 captions" in capsys.readouterr().out
    assert run("tags", train, "--order", "emotions") == 1 and "emotion" in capsys.readouterr().err


def test_slots_of_ones_own_come_from_a_file(train, tmp_path):
    file = tmp_path / "slots.toml"
    file.write_text('colour = ["red *", "縞"]\n', encoding="utf-8")
    assert slots.read_order("colour", str(file)).sorted(["smile", "red_hair"]) == ["red_hair", "smile"]


def test_a_data_sets_file_and_a_folder_of_pictures_are_places_too(train, tmp_path, capsys):
    file = tmp_path / "data.toml"
    folder = (train / FOLDER).as_posix()
    file.write_text(f'[[datasets]]\nresolution = 512\ncaption_extension = ".txt"\n[[datasets.subsets]]\nimage_dir = "{folder}"\n',
                    encoding="utf-8")
    for where in (file, train / FOLDER):
        assert run("tags", where) == 0
        assert "2 captions in 1 folder\n" in capsys.readouterr().out
