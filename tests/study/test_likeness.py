"""Likeness by an embedding model: a small CLIP that the test makes."""

from pathlib import Path

import pytest
from PIL import Image

from library.study import likeness
from library.util.records import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "examples" / "tiny-sd" / "tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    CLIPModel(CLIPConfig(text_config=small | ends | {"vocab_size": len(tokenizer)},
                         vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=8)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_picture_is_most_like_itself_and_words_share_its_space(small_clip):
    found = likeness.embedder(str(small_clip))
    vectors = found.pictures([Image.new("RGB", (48, 40), colour) for colour in ("red", "blue", "red")])
    alike = vectors @ vectors.T
    assert float(alike[0, 2]) == pytest.approx(1, abs=1e-5) and float(alike[0, 1]) < 0.9999
    assert found.words(["a red star", "a " * 200]).shape == vectors[:2].shape


def test_a_folder_without_a_model_is_refused_in_words(tmp_path):
    with pytest.raises(UserError) as caught:
        likeness.embedder(str(tmp_path))
    assert "leave --likeness out" in caught.value.problems[0].remedy
