"""Files of models whose original checkpoint holds several layers as one: kohya's and ComfyUI's names, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from library.families import registry
from networks import fused, ia3, keys, loha, lokr, lora, oft, registry as registry_of_networks

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "lora_names.json").read_text(encoding="utf-8"))
FAMILIES = [spec.name for spec in registry.specs() if spec.target_space == "flow"]
ROWS = ((0, 4), (4, 4), (8, 16))


def network(name: str, module: Any = lora) -> Any:
    """An adapter on a tiny model's denoiser, with random weights."""
    family = registry.get(name)
    targets = [t for t in family.adapter_targets(family.tiny(0)) if t.root == "denoiser"]
    made = module.create_network(1.0, 2, 1.0, None, None, None, targets=targets)
    torch.manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def product(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    scale = float(parts["alpha"]) / parts["lora_down.weight"].shape[0]
    return parts["lora_up.weight"] @ parts["lora_down.weight"] * scale


@pytest.mark.parametrize("fmt", ["kohya", "comfy", "diffusers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_file_changes_every_layer_as_the_network_does(family: str, fmt: str) -> None:
    made = network(family)
    back, unknown = keys.to_kohya(made.file_tensors(None, fmt), made.names)
    own = keys.group(made.state_dict())
    assert not unknown and back.keys() == own.keys()
    for name, parts in own.items():
        assert back[name]["lora_down.weight"].shape == parts["lora_down.weight"].shape
        assert torch.allclose(product(back[name]), product(parts), atol=1e-6)
        if fmt == "kohya":
            assert all(torch.equal(back[name][k], parts[k]) for k in parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_loha_is_put_together_and_taken_apart_exactly_too(family: str) -> None:
    made = network(family, loha)
    back, unknown = keys.to_kohya(made.file_tensors(), made.names)
    own = keys.group(made.state_dict())
    assert not unknown and all(torch.equal(back[n][k], own[n][k]) for n in own for k in own[n])


@pytest.mark.parametrize("fmt", ["kohya", "comfy"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lokr_of_parts_has_the_names_that_lycoris_gives_them_and_comes_back_exactly(family: str, fmt: str) -> None:
    made = network(family, lokr)
    written = made.file_tensors(None, fmt)
    back, unknown = keys.to_kohya(written, made.names)
    own = keys.group(made.state_dict())
    assert not unknown and all(torch.equal(back[n][k], own[n][k]) for n in own for k in own[n])
    stems = {key.split(".lokr")[0].removesuffix(".alpha") for key in written}
    for adapter in made.adapters:
        named = f"lycoris_{adapter.target.path.replace('.', '_')}"
        assert (named in stems) == (adapter.target.fused is not None)


def random_part(rows: int, rank: int, alpha: float) -> dict[str, torch.Tensor]:
    return {"lora_up.weight": torch.randn(rows, rank), "lora_down.weight": torch.randn(rank, 5), "alpha": torch.tensor(alpha)}


def test_the_whole_changes_weights_as_its_parts_one_below_the_other() -> None:
    parts = [random_part(4, 2, 1.0), None, random_part(16, 3, 3.0)]
    whole = fused.join("lora", parts, ROWS)
    assert whole["lora_down.weight"].shape == (9, 5)
    expected = torch.cat([product(parts[0]), torch.zeros(4, 5), product(parts[2])])
    assert torch.allclose(product(whole), expected, atol=1e-6)
    back = fused.split("lora", whole, ROWS)
    assert back[1] is None and [back[i]["lora_down.weight"].shape[0] for i in (0, 2)] == [2, 3]
    assert torch.equal(back[0]["lora_up.weight"], parts[0]["lora_up.weight"])


def test_an_adapter_trained_on_the_whole_goes_to_every_part_at_its_full_rank() -> None:
    whole = random_part(24, 6, 3.0)
    back = fused.split("lora", whole, ROWS)
    assert torch.allclose(torch.cat([product(p) for p in back]), product(whole), atol=1e-6)
    assert all(p["lora_down.weight"].shape[0] == 6 for p in back)


def test_an_untrained_adapter_keeps_its_modules_and_ranks() -> None:
    parts = [random_part(n, 2, 2.0) for _, n in ROWS]
    for part in parts:
        part["lora_up.weight"].zero_()
    back = fused.split("lora", fused.join("lora", parts, ROWS), ROWS)
    assert all(torch.equal(b["lora_down.weight"], p["lora_down.weight"]) for b, p in zip(back, parts, strict=True))


@pytest.mark.parametrize(("family", "golden"), [("flux1", "flux lora"), ("sd3", "sd3 lora")])
def test_full_size_files_have_kohyas_names_and_widths(family: str, golden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    from library.families import source

    kinds = {"flux1": diffusers.FluxTransformer2DModel, "sd3": diffusers.SD3Transformer2DModel}
    module = registry.get(family)
    parts = module.tiny(0)
    with torch.device("meta"):
        parts.denoiser = kinds[family](**source.asset(f"{family}.json")["transformer"])
    parts.text_encoders = []
    targets = module.adapter_targets(parts)
    tensors = {}
    for target in targets:
        rows, columns = target.module.weight.shape
        tensors[f"{target.name}.lora_down.weight"] = torch.empty(1, columns, dtype=torch.int8)
        tensors[f"{target.name}.lora_up.weight"] = torch.empty(rows, 1, dtype=torch.int8)
        tensors[f"{target.name}.alpha"] = torch.tensor(1.0)
    written = keys.group(keys.from_kohya(tensors, "kohya", keys.Names.of(targets)))
    expected = [row for row in GOLDEN[golden] if row[0].startswith("lora_unet_")]
    assert list(written) == [name for name, _, _ in expected]
    for name, down, up in expected:
        assert written[name]["lora_down.weight"].shape[1] == down[1] and written[name]["lora_up.weight"].shape[0] == up[0]


def test_diffusers_reads_the_flux_file_in_kohyas_names_as_the_same_change_of_every_layer() -> None:
    from diffusers import FluxTransformer2DModel
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    from library.families import source

    module = registry.get("flux1")
    parts = module.tiny(0)
    with torch.device("meta"):
        config = source.asset("flux1.json")["transformer"] | {"num_layers": 1, "num_single_layers": 1}
        parts.denoiser = FluxTransformer2DModel(**config)
    targets = [t for t in module.adapter_targets(parts) if t.root == "denoiser"]
    names, tensors = keys.Names.of(targets), {}
    for target in targets:
        rows, columns = target.module.weight.shape
        tensors[f"{target.name}.lora_down.weight"] = torch.randn(1, columns)
        tensors[f"{target.name}.lora_up.weight"] = torch.randn(rows, 1)
        tensors[f"{target.name}.alpha"] = torch.tensor(0.5)
    read = _convert_kohya_flux_lora_to_diffusers(keys.from_kohya(tensors, "kohya", names))
    assert sum(name.endswith(".lora_B.weight") for name in read) == len(targets)
    for target in targets:
        down, up = (read[f"transformer.{target.path}.lora_{letter}.weight"] for letter in "AB")
        own = keys.group(tensors)[target.name]
        assert down.shape[0] == 1 and torch.allclose(up[:4] @ down, product(own | {"lora_up.weight":
                                                     own["lora_up.weight"][:4]}), atol=1e-6), target.path


@pytest.mark.parametrize(("module", "args"), [(oft, {}), (ia3, {}), (lora, {"dora_wd": "true"})])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_kinds_are_put_together_and_taken_apart_exactly_too(family: str, module: Any, args: dict[str, str]) -> None:
    family = registry.get(family)
    targets = [t for t in family.adapter_targets(family.tiny(0)) if t.root == "denoiser"]
    made = module.create_network(1.0, 2, 1.0, None, None, None, targets=targets, **args)
    torch.manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    back, unknown = keys.to_kohya(made.file_tensors(), made.names)
    own = keys.group(made.state_dict())
    assert not unknown and all(torch.equal(back[n][k], own[n][k]) for n in own for k in own[n])


def test_kohyas_rotations_of_flux_are_numbered_below_the_original_names() -> None:
    """``oft_blocks.0`` to ``.2`` for q, k and v of a fused layer, ``.0`` for one by itself (kohya's oft_flux)."""
    family = registry.get("flux1")
    targets = [t for t in family.adapter_targets(family.tiny(0)) if t.root == "denoiser"]
    module = registry_of_networks.load_module("networks.oft_flux")
    made = module.create_network(1.0, 2, 1e-3, None, None, None, targets=targets, enable_all_linear="true")
    written = made.file_tensors()
    for stem, count in (("oft_unet_double_blocks_0_img_attn_qkv", 3), ("oft_unet_double_blocks_0_img_attn_proj", 1),
                        ("oft_unet_single_blocks_0_linear1", 4)):
        assert {k.removeprefix(f"{stem}.") for k in written if k.startswith(f"{stem}.")} == {
            "alpha", *(f"oft_blocks.{n}" for n in range(count))}
