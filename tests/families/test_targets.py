import re

import pytest

from library.families import registry, targets
from library.util.records import UserError

FAMILIES = registry.names()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    family = registry.get(request.param)
    return family, family.tiny()


@pytest.mark.parametrize("preset", ["auto", "visual", "selfattn", "noxattn", "innoxattn", "full"])
def test_presets_find_attention_and_leave_text_alone(model, preset):
    family, parts = model
    found = targets.choose(family, parts, preset)
    assert any(target.role == targets.SELF for target in found)
    assert len({target.name for target in found}) == len(found)
    if preset not in targets.ON_PURPOSE:
        assert not [target.path for target in found for pattern in family.SPEC.never_touch if re.search(pattern, target.path)]


def test_a_unets_presets_are_leco_and_concept_sliders_methods():
    family = registry.get("sd1")
    parts = family.tiny()

    def paths(preset):
        return {target.path for target in targets.choose(family, parts, preset)}

    assert all(".attn1." in path for path in paths("selfattn"))
    assert all(".attn2." in path for path in paths("xattn"))
    assert all(path.endswith(("to_k", "to_v")) for path in paths("xattn-strict"))
    assert not any(".attn2." in path or "time_emb" in path for path in paths("noxattn"))
    assert not any(".attn2." in path for path in paths("innoxattn")) and any("time_emb" in path for path in paths("innoxattn"))
    assert {"conv_in", "conv_out", "time_embedding.linear_1"} <= paths("visual") and paths("visual") == paths("simpletuner") | {
        path for path in paths("visual") if "resnets" in path or "samplers" in path}


def test_a_preset_without_attention_says_what_the_model_has():
    family = registry.get("sd3")
    with pytest.raises(UserError) as refused:
        targets.choose(family, family.tiny(), "xattn")
    assert "self-attention" in refused.value.problems[0].what
