"""Captions by a small BLIP that the test makes: as transformers itself would write them."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from library.dataset import captioner
from library.dataset.kohya_scripts import without_lettering
from tests.data_room.made import picture
from tests.dataset.test_tagger import script
from tools import dataset

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "red", "star", "on", "blue", "ground", "the", "large", "small"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = BlipConfig(text_config={**small, "vocab_size": len(WORDS), "encoder_hidden_size": 16,
                                     "bos_token_id": 5, "eos_token_id": 3,
                                     "sep_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 64},
                        vision_config={**small, "image_size": 32, "patch_size": 16}, image_text_hidden_size=16, projection_dim=16)
    config.text_config.initializer_range = config.vision_config.initializer_range = 1.0
    BlipForConditionalGeneration(config).save_pretrained(folder)
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), BertTokenizer(str(folder / "vocab.txt")))
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def train(tmp_path: Path) -> Path:
    for number in range(3):
        picture(tmp_path / "train" / "5_x" / f"{number}.png", (64, 48), None, seed=number)
    return tmp_path / "train"


@pytest.mark.parametrize(("batch", "beams"), [(1, 1), (2, 3)])
def test_captions_are_what_the_model_itself_writes(blip, train, batch, beams):
    from transformers import AutoProcessor, BlipForConditionalGeneration

    paths = sorted((train / "5_x").iterdir())
    writing = captioner.Writing(beams=beams, max_length=8, min_length=2)
    found = dict(captioner.Captioner(str(blip), "cpu").write(paths, writing, batch))
    model, processor = BlipForConditionalGeneration.from_pretrained(blip).eval(), AutoProcessor.from_pretrained(blip)
    for path in paths:
        inputs = processor(images=Image.open(path).convert("RGB"), return_tensors="pt")
        ids = model.generate(**inputs, num_beams=beams, max_new_tokens=8, min_new_tokens=2, do_sample=False)
        assert found[path] == " ".join(processor.decode(ids[0], skip_special_tokens=True).split())
    assert all(found.values())


def test_the_sub_command_and_kohyas_script_write_them(blip, train):
    command = ["caption", str(train), "--model_id", str(blip), "--prefix", "zobi, ", "--max_length", "6", "--batch_size", "3"]
    assert dataset.main(command) == 0 and not list(train.rglob("*.txt"))
    assert dataset.main([*command, "--yes"]) == 0
    assert [file.read_text(encoding="utf-8").startswith("zobi, ") for file in train.rglob("5_x/*.txt")] == [True] * 3
    assert script("make_captions.py", train / "5_x", "--caption_weights", blip, "--max_length", 6, "--seed", 1) == 0
    drawn = [file.read_text(encoding="utf-8") for file in sorted(train.rglob("5_x/*.caption"))]
    assert len(drawn) == 3
    script("make_captions.py", train / "5_x", "--caption_weights", blip, "--max_length", 6, "--seed", 1)
    assert [file.read_text(encoding="utf-8") for file in sorted(train.rglob("5_x/*.caption"))] == drawn, "the same seed"


def test_kohyas_git_script_takes_any_captioner(blip, train):
    assert script("make_captions_by_git.py", train / "5_x", "--model_id", blip, "--max_length", 6, "--remove_words") == 0
    assert len(list(train.rglob("5_x/*.caption"))) == 3


@pytest.mark.parametrize(("said", "kept"), [
    ("a cup with the words good day on it", "a cup"), ("a sign that says stop, on a road", "a sign, on a road"),
    ("a red circle", "a red circle"), ("a girl with long hair and the number 5", "a girl with long hair"),
    ("the word stop", "the word stop")])
def test_words_about_lettering_are_left_out_of_a_caption(said, kept):
    assert without_lettering(said) == kept


def test_what_cannot_be_loaded_is_a_sentence(train, capsys):
    assert dataset.main(["caption", str(train), "--model_id", "someone/nothing-here"]) == 1
    assert dataset.main(["caption", str(train), "--model_id", "model_large.pth"]) == 1
    said = " ".join(capsys.readouterr().err.replace("┃", " ").split())
    assert "cannot be loaded" in said and "first BLIP program" in said
