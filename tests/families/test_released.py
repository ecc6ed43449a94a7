"""What is said of published models: sizes are those of their classes, files have flags."""

from __future__ import annotations

import pytest

from library.families import blank, registry, released
from library.flags import flags_of
from library.train import swapping


@pytest.mark.parametrize("name", registry.names())
def test_numbers_of_weights_are_those_of_the_classes_in_the_released_configuration(name: str) -> None:
    built = blank._components(name, {"unet", "transformer", "vae", "text_conditioner"})
    denoiser = built["unet"] if "unet" in built else built["transformer"]
    count = sum(p.numel() for part in (denoiser, built.get("text_conditioner")) if part is not None for p in part.parameters())
    told = released.nearest(name, count)
    assert told.denoiser * released.BILLION == pytest.approx(count, rel=1e-3)
    assert told.vae * released.BILLION == pytest.approx(sum(p.numel() for p in built["vae"].parameters()), rel=5e-3)
    assert told.blocks == len(swapping.blocks(denoiser))


@pytest.mark.parametrize("name", registry.names())
def test_every_file_is_given_by_a_flag_of_the_families_script(name: str) -> None:
    known = flags_of(registry.get(name).SPEC.scripts[0])
    for one in released.of(name):
        assert all(known[flag].path and place.count("/") >= 2 for flag, place in one.files.items())
        assert one.folder is None or one.folder.count("/") == 1
