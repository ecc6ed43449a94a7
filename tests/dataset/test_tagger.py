"""Tagging with small ONNX models: kohya's script with its flags, the sub-command, the hub on this machine."""

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.data.files import read_caption
from library.dataset import kohya_scripts, tagger
from tests.families import hub_server
from tools import dataset

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
LABELS = ("general,9", "sensitive,9", "questionable,9", "explicit,9", "blue_sky,0", "green_grass,0", "red_hair,0", "^_^,0",
          "zobi_(my_series),4")
COLOURS = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0],
                    [0, 0, 1], [0, 0, 0.5], [0, 0, 0.9]], np.float32)
"""Each label's probability is a mix of a picture's mean blue, green and red."""


def make_model(folder: Path, batch: int | str = "N", side: int = 32) -> Path:
    """A tagger of WD14's form that sees nothing but the mean colour."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
             helper.make_node("MatMul", ["mean", "mix"], ["out"])]
    weights = [numpy_helper.from_array((COLOURS / 255).T.copy(), "mix"), numpy_helper.from_array(np.array([1, 2]), "axes")]
    graph = helper.make_graph(nodes, "tagger", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, side, side, 3])],
                              [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, len(LABELS)])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / tagger.MODEL)
    rows = ["tag_id,name,category,count", *(f"{number},{label},1" for number, label in enumerate(LABELS))]
    (folder / tagger.LABELS).write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def train(tmp_path: Path) -> Path:
    folder = tmp_path / "train" / "10_ぞび"
    folder.mkdir(parents=True)
    Image.new("RGB", (90, 90), (255, 0, 0)).save(folder / "red.png")
    Image.new("RGB", (90, 90), (0, 0, 200)).save(folder / "blue.jpg", quality=100)
    Image.new("RGB", (90, 90), (0, 255, 0)).save(folder / "green.webp", lossless=True)
    return tmp_path / "train"


def script(name: str, *argv: object) -> int:
    """Run one of finetune's scripts in this process."""
    before, sys.argv = sys.argv, [name, *map(str, argv)]
    try:
        runpy.run_path(str(ROOT / "finetune" / name), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    raise AssertionError("a script ends with its exit code")


def captions(train: Path) -> dict[str, str]:
    return {file.stem: file.read_text(encoding="utf-8") for file in (train / "10_ぞび").glob("*.txt")}


@pytest.mark.parametrize("batch", ["N", 1, 2])
def test_kohyas_script_writes_the_tags_of_each_picture(train, tmp_path, batch):
    model = make_model(tmp_path / "model", batch)
    code = script("tag_images_by_wd14_tagger.py", train, "--repo_id", model, "--onnx", "--recursive", "--batch_size", 2,
                  "--thresh", 0.35, "--character_threshold", 0.85, "--remove_underscore", "--character_tag_expand",
                  "--character_tags_first", "--use_rating_tags_as_last_tag", "--undesired_tags", "sensitive, ^_^")
    assert code == 0
    assert captions(train) == {"red": "zobi, my series, red hair, general\n", "blue": "blue sky, questionable\n",
                               "green": "green grass\n"}


def test_tags_are_added_to_captions_in_any_encoding_and_replaced_ones_come_back(train, tmp_path):
    model, file = make_model(tmp_path / "model"), train / "10_ぞび" / "red.txt"
    file.write_bytes("縞, red_hair".encode("cp932"))
    command = ["tag", str(train), "--repo_id", str(model), "--append_tags", "--tag_replacement", "zobi_(my_series),zobi"]
    assert dataset.main(command) == 0 and read_caption(file).encoding == "cp932", "without --yes nothing is written"
    assert dataset.main([*command, "--yes"]) == 0
    assert file.read_text(encoding="utf-8") == "縞, red_hair, ^_^, zobi\n"
    dataset.main(["undo", str(train)])
    assert file.read_bytes() == "縞, red_hair".encode("cp932") and [one.name for one in file.parent.glob("*.txt")] == ["red.txt"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    import huggingface_hub.constants as constants

    log: list[str] = []
    with hub_server.serve({"someone/tagger": make_model(tmp_path / "hub")}, log) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield log


def test_a_tagger_is_loaded_from_the_hub_once(train, tmp_path, hub, capsys):
    command = ["tag", str(train), "--repo_id", "someone/tagger", "--model_dir", str(tmp_path / "taggers"), "--yes"]
    assert dataset.main(command) == 0 and captions(train)["blue"] == "blue_sky\n"
    asked = len(hub)
    assert asked and dataset.main(command) == 0 and len(hub) == asked
    assert (tmp_path / "taggers" / "someone_tagger" / tagger.MODEL).is_file(), "where kohya's script looks too"
    assert dataset.main(["tag", str(train), "--repo_id", "someone/nothing", "--model_dir", str(tmp_path / "t2")]) == 1
    assert "no such model" in capsys.readouterr().err


def test_without_a_network_a_sentence_says_what_to_do(train, tmp_path, capsys):
    assert dataset.main(["tag", str(train), "--model_dir", str(tmp_path / "none")]) == 1
    said = " ".join(capsys.readouterr().err.replace("┃", " ").split())
    assert "the hub is out of reach" in said and "give their folder as --repo_id" in said


def test_a_missing_package_and_tags_that_a_tagger_lacks_are_said(train, tmp_path, capsys, monkeypatch):
    model = make_model(tmp_path / "model")
    assert dataset.main(["tag", str(train), "--repo_id", str(model), "--artist_threshold", "0.5"]) == 1
    assert "has no artist tags" in capsys.readouterr().err
    assert script("tag_images_by_wd14_tagger.py", train, "--use_quality_tags") == 1
    monkeypatch.setattr(tagger, "installed", lambda name: False)
    assert dataset.main(["tag", str(train), "--repo_id", str(model)]) == 1
    assert "pip install onnxruntime" in capsys.readouterr().err


def test_labels_of_another_tagger_are_refused_in_words(train, tmp_path, capsys):
    model = make_model(tmp_path / "model")
    labels = model / tagger.LABELS
    labels.write_text(labels.read_text(encoding="utf-8") + "\n9,one_more,0,1", encoding="utf-8")
    assert dataset.main(["tag", str(train), "--repo_id", str(model)]) == 1
    assert "10 labels" in capsys.readouterr().err


def test_captions_and_tags_meet_in_a_metadata_file_and_are_cleaned(train, tmp_path, capsys):
    folder, meta = train / "10_ぞび", tmp_path / "meta.json"
    (folder / "red.caption").write_text("a young anime woman with hair", encoding="utf-8")
    (folder / "red.txt").write_text("2girls, red_hair, blue_hair, shirt, white_shirt, ^_^, rating:safe", encoding="utf-8")
    assert script("merge_captions_to_metadata.py", folder, meta) == 0
    assert script("merge_dd_tags_to_metadata.py", folder, meta) == 0
    assert script("clean_captions_and_tags.py", meta, meta) == 0
    assert json.loads(meta.read_text(encoding="utf-8")) == {
        "red": {"caption": "a girl with hair", "tags": "2girls, white shirt, ^_^"}}
    assert script("merge_captions_to_metadata.py", train, meta, "--recursive") == 1
    assert "--full_path" in capsys.readouterr().err
    assert kohya_scripts.clean_tags("1girl, red_hair, blue_eyes") == "1girl, red hair, blue eyes"


def test_the_script_that_caches_nothing_says_what_does():
    done = subprocess.run([sys.executable, str(ROOT / "finetune/prepare_buckets_latents.py"), "a", "b.json", "c.json", "model"],
                          capture_output=True, text=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 1 and "--cache_latents_to_disk" in done.stderr
