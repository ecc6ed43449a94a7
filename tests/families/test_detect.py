"""Detection by names and shapes: right for every family, wrong for none of the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import family_helpers as helpers
import pytest
import torch
from safetensors.torch import save_file

from library.families import detect, registry, sd1
from library.util.header import Header

ROOT = Path(__file__).parents[2]


def header(*names: str, shape: tuple[int, ...] = (8, 8)) -> Header:
    return Header(dict.fromkeys(names, shape))


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return helpers.ldm_tensors(sd1.tiny(0))


def shapes(tensors: dict[str, torch.Tensor]) -> Header:
    return Header({n: tuple(t.shape) for n, t in tensors.items()})


def test_specs_are_read_without_torch_and_diffusers() -> None:
    code = (
        "import sys\nfor m in ('torch', 'diffusers', 'transformers'): sys.modules[m] = None\n"
        "from library.families import registry, detect\nassert len(registry.specs()) == len(registry.names())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_original_sd1_checkpoint_is_recognised(tensors: dict[str, torch.Tensor]) -> None:
    found = detect.classify(shapes(tensors))
    assert (found.family, found.kind, found.hints["v2"]) == ("sd1", "single file", False)


def test_a_unet_alone_is_recognised_in_both_spellings(tensors: dict[str, torch.Tensor]) -> None:
    unet = {n.removeprefix("model.diffusion_model."): t for n, t in tensors.items() if n.startswith("model.")}
    assert detect.classify(shapes(unet)).family == "sd1"
    assert (
        detect.classify(Header({n: tuple(t.shape) for n, t in sd1.tiny(0).denoiser.state_dict().items()})).family
        == "sd1"
    )


def test_sd2_and_inpainting_are_told_by_shapes(tensors: dict[str, torch.Tensor]) -> None:
    table = dict(shapes(tensors).shapes)
    for name in table:
        if name.endswith("attn2.to_k.weight"):
            table[name] = (8, 1024)
    table["model.diffusion_model.input_blocks.0.0.weight"] = (8, 9, 3, 3)
    assert detect.classify(Header(table)).hints == {"v2": True, "in_channels": 9}


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "lora_unet_x.alpha"), "lora"),
        (("transformer.blocks.0.attn.to_q.lora_A.weight",), "lora"),
        (("lora_unet_x.hada_w1_a",), "lora"),
        (("encoder.conv_in.weight", "decoder.conv_in.weight"), "vae"),
        (("first_stage_model.decoder.conv_in.weight",), "vae"),
        (("text_model.embeddings.token_embedding.weight",), "text encoder"),
        (("encoder.block.0.layer.0.SelfAttention.q.weight",), "text encoder"),
        (("emb_params",), "unknown"),
    ],
)
def test_files_that_are_no_base_model_are_called_what_they_are(names: tuple[str, ...], kind: str) -> None:
    found = detect.classify(header(*names))
    assert (found.family, found.kind) == (None, kind)


def test_an_unknown_file_lists_its_commonest_names() -> None:
    found = detect.classify(header("foo.a", "foo.b", "bar.c"))
    assert "foo.* 2, bar.* 1" in found.what


def test_a_damaged_file_is_reported_not_raised(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"<html></html>")
    found = detect.identify(str(tmp_path / "m.safetensors"))
    assert found.kind == "damaged" and "web page" in found.what


def test_a_folder_with_one_checkpoint_names_it(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert "model.safetensors" in detect.identify(str(tmp_path)).what


def test_a_model_folder_tells_velocity_prediction(tmp_path: Path) -> None:
    parts = sd1.tiny(0)
    parts.scheduler_config["prediction_type"] = "v_prediction"
    found = detect.identify(str(helpers.save_folder(parts, tmp_path / "m")))
    assert (found.family, found.hints) == ("sd1", {"v2": False, "v_parameterization": True})


def test_a_path_that_does_not_exist_is_missing() -> None:
    assert detect.identify("no/such/file.safetensors").kind == "missing"


def test_an_unknown_family_name_lists_the_near_ones() -> None:
    from library.util.records import UserError

    with pytest.raises(UserError) as error:
        registry.get("sd11")
    assert "sd1" in error.value.problems[0].remedy
