"""The words that a LoRA's text encoder was moved by are found without its captions."""

import torch
from safetensors.torch import save_file

from library.util.tensorfile import read_tensors
from networks import lora
from tests.families import family_helpers as helpers
from tests.lorafile import models
from tests.lorafile.test_commands import run

SCRIPT = "networks/lora_interrogator.py"


def one_word_file(parts, word, path):
    """A LoRA whose first layer's query answers one token's direction alone."""
    network = models.adapted(lora, "sd1", parts)
    network.save_weights(path, None, {})
    network.remove()
    tensors = {name: torch.zeros_like(t) if "lora_up" in name else t for name, t in read_tensors(path).items()}
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    encoder = parts.text_encoders[0]
    rows = dict(encoder.named_parameters())["embeddings.token_embedding.weight"].clone()
    number = parts.tokenizers[0].get_vocab()[word]
    with torch.no_grad():
        seen = encoder.get_submodule("encoder").layers[0].layer_norm2
        direction = seen(rows[number])
        tensors[f"{stem}.lora_down.weight"][:] = 0
        tensors[f"{stem}.lora_down.weight"][0] = direction
        tensors[f"{stem}.lora_up.weight"][:, 0] = 1.0
    save_file(tensors, path)


def test_the_word_a_file_answers_to_comes_first_and_a_file_without_text_gets_a_sentence(tmp_path, monkeypatch, capsys):
    models.with_tiny_sizes(monkeypatch)
    parts = models.tiny("sd1")
    with torch.no_grad():
        dict(parts.text_encoders[0].named_parameters())["embeddings.token_embedding.weight"].mul_(100)
    folder = helpers.save_folder(parts, tmp_path / "モデル")
    one_word_file(parts, "q</w>", tmp_path / "a.safetensors")
    capsys.readouterr()
    assert run(SCRIPT, "--sd_model", folder, "--model", tmp_path / "a.safetensors", "--top", 3, "--batch_size", 64) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("text_encoder: 512 tokens") and len(lines) == 4
    assert lines[1].split() == ["1", lines[1].split()[1], "q"]
    assert float(lines[1].split()[1]) > float(lines[2].split()[1])
    unet_only = {k: t for k, t in read_tensors(tmp_path / "a.safetensors").items() if k.startswith("lora_unet")}
    save_file(unet_only, tmp_path / "b.safetensors")
    assert run(SCRIPT, "--sd_model", folder, "--model", tmp_path / "b.safetensors") == 1
    assert "changes no CLIP text encoder" in " ".join(capsys.readouterr().err.replace("┃", " ").split())
    assert run(SCRIPT, "--sd_model", folder, "--model", tmp_path / "a.safetensors", "--v2") == 1
    assert "is no SD 2 model" in " ".join(capsys.readouterr().err.replace("┃", " ").split())
