"""Where models come from: folders, files, hub repositories; and what the answer is when nothing is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import family_helpers as helpers
import hub_server
import pytest

from library.families import detect, sd1, source
from library.families.interface import LoadRequest, Parts
from library.util.records import UserError

FILES = [
    "model_index.json",
    "README.md",
    "v1-5-pruned.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "text_encoder/config.json",
    "text_encoder/pytorch_model.bin",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
]


@pytest.fixture(scope="module")
def tiny() -> Parts:
    return sd1.tiny(0)


@pytest.fixture(scope="module")
def folder(tiny: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helpers.save_folder(tiny, tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    import huggingface_hub.constants as constants

    log: list[str] = []
    with hub_server.serve({"someone/tiny": folder, "someone/gated": folder}, log, gated=("someone/gated",)) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield log


def test_a_hub_id_is_recognised_and_loads_as_the_folder_does(hub: list[str], tiny: Parts) -> None:
    found = detect.identify("someone/tiny")
    assert (found.family, found.kind) == ("sd1", "hub id")
    assert not any("safetensors" in line for line in hub)
    loaded = sd1.load(LoadRequest("someone/tiny", sd1.Options(), parts=frozenset({"denoiser"})))
    helpers.assert_same_weights(loaded.denoiser, tiny.denoiser)
    assert not any("/vae/diffusion" in line or "text_encoder/model" in line for line in hub)


def test_a_hub_model_that_was_downloaded_loads_without_connection(
    hub: list[str], tiny: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sd1.load(LoadRequest("someone/tiny", sd1.Options()))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = sd1.load(LoadRequest("someone/tiny", sd1.Options()))
    helpers.assert_same_weights(again.denoiser, tiny.denoiser)


def test_a_public_model_is_downloaded_past_a_token_that_the_hub_refuses(
    folder: Path, tiny: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    token = "hf_" + "x9Y8" * 9
    with hub_server.serve({"someone/tiny": folder}, [], bad_token=token) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert detect.identify("someone/tiny").family == "sd1"
        loaded = sd1.load(LoadRequest("someone/tiny", sd1.Options(), parts=frozenset({"denoiser"})))
    helpers.assert_same_weights(loaded.denoiser, tiny.denoiser)


@pytest.mark.parametrize("granted", [0, 1])
def test_a_hub_model_is_downloaded_where_windows_grants_no_symbolic_links(
    hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granted: int
) -> None:
    """``granted``: how many links are made before Windows refuses (huggingface_hub tries one out in its cache folder)."""
    import os

    import huggingface_hub.constants as constants
    from huggingface_hub import file_download

    made, refused = [], OSError("[WinError 1314] A required privilege is not held by the client")

    def link(source: str, target: str, *more: object) -> None:
        if len(made) >= granted:
            raise refused
        made.append(target)
        Path(target).touch()

    monkeypatch.setattr(os, "symlink", link)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS_WARNING", True)
    monkeypatch.setattr(file_download, "_are_symlinks_supported_in_dir", {})
    found = source.locate("someone/tiny", "--pretrained_model_name_or_path", ("unet",))
    weights = list(found.glob("unet/*.safetensors"))
    assert len(weights) == 1 and not weights[0].is_symlink() and weights[0].stat().st_size > 1000
    assert len(made) == granted and bool(granted) == constants.HF_HUB_DISABLE_SYMLINKS


def test_an_unknown_hub_id_says_what_to_check(hub: list[str]) -> None:
    assert detect.identify("someone/nothing").kind == "missing"
    with pytest.raises(UserError) as error:
        sd1.load(LoadRequest("someone/nothing", sd1.Options()))
    assert "HF_TOKEN" in error.value.problems[0].remedy


def test_a_gated_hub_id_names_terms_and_token(hub: list[str]) -> None:
    with pytest.raises(UserError) as error:
        detect.identify("someone/gated")
    assert "terms" in error.value.problems[0].remedy and "HF_TOKEN" in error.value.problems[0].remedy


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [
        ("fp32", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/pytorch_model.bin"]),
        ("fp16", ["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/pytorch_model.bin"]),
    ],
)
def test_one_variant_of_the_weights_is_downloaded(dtype: str, weights: list[str]) -> None:
    wanted = source.wanted_files(FILES, ("unet", "text_encoder", "tokenizer"), dtype)
    assert sorted(f for f in wanted if f.endswith((".safetensors", ".bin"))) == sorted(weights)
    assert {"model_index.json", "unet/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"} <= set(wanted)


def test_sharded_weights_are_downloaded_whole() -> None:
    files = [
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.fp16.safetensors.index.json",
        "transformer/diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
    ]
    wanted = [f for f in source.wanted_files(files, (), "fp32") if "0000" in f]
    assert wanted == [f for f in files if "model-0000" in f]
    assert [f for f in source.wanted_files(files, (), "fp16") if "0000" in f] == [files[-1]]


@pytest.mark.parametrize(
    ("typed", "is_path"),
    [
        ("runwayml/stable-diffusion-v1-5", False),
        ("v1-5-pruned", True),
        ("someone/name.with.dots", False),
        ("models/v1-5-pruned.safetensors", True),
        (r"C:\models\v1-5", True),
        ("./model", True),
        ("a/b/c", True),
        ("~/model", True),
        ("v1-5-pruned.ckpt", True),
        ("D:model", True),
        ("models/sd15", True),
        ("my model", True),
    ],
)
def test_paths_and_hub_ids_are_told_apart(typed: str, is_path: bool) -> None:
    assert source.looks_like_path(typed) == is_path


def test_a_misspelt_path_names_the_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "v1-5-pruned-emaonly.safetensors").touch()
    with pytest.raises(UserError) as error:
        source.locate(str(tmp_path / "v1-5-pruned-emaonl.safetensors"), "--vae")
    assert "v1-5-pruned-emaonly.safetensors" in error.value.problems[0].remedy
    assert error.value.problems[0].where == "--vae"


def test_quotes_around_a_path_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "日本 語").mkdir()
    assert source.locate(f'"{tmp_path / "日本 語"}"', "--vae") == tmp_path / "日本 語"


def test_a_part_of_a_model_folder_names_the_folder_above(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        sd1.load(LoadRequest(str(folder / "unet"), sd1.Options()))
    assert str(folder) in error.value.problems[0].remedy
