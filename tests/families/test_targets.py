import importlib
import json
import re
from pathlib import Path

import pytest

from library.families import registry, roles, targets
from library.util.records import UserError

FAMILIES = registry.names()
DENOISERS = json.loads((Path(__file__).resolve().parents[1] / "data" / "denoisers.json").read_text(encoding="utf-8"))
"""Every architecture: diffusers' class with a tiny configuration, and the paths of what works on the picture alone."""
ATTENTION = re.compile(r"\.(attn1?|attn2|self_attn|self_attention|attention)\.")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    family = registry.get(request.param)
    return family, family.tiny()


@pytest.fixture(scope="module", params=list(DENOISERS))
def bare(request):
    import torch

    record = DENOISERS[request.param]
    with torch.device("meta"):
        denoiser = getattr(importlib.import_module("diffusers"), record["class"])(**record["config"])
    return denoiser, [path for path in roles.layers(denoiser) if any(re.fullmatch(p, path) for p in record["visual"])]


def paths(denoiser, preset):
    return {target.path for target in targets.choose_bare(denoiser, preset)}


def test_on_every_architecture_sliders_take_the_attention_of_the_picture_and_nothing_of_the_text(bare):
    denoiser, visual = bare
    attention = {path for path in visual if ATTENTION.search(path)}
    assert paths(denoiser, "selfattn") == attention
    around = [path for path in visual if roles.role(path, roles.layers(denoiser)) in ("projection", "in-out", "time")]
    assert paths(denoiser, "visual") >= attention | set(around)
    text = {path for path in roles.layers(denoiser) if roles.role(path) == roles.TEXT}
    for preset in sorted(targets.PRESETS.keys() - targets.ON_PURPOSE):
        assert attention <= paths(denoiser, preset) and not paths(denoiser, preset) & text


def test_every_layer_of_every_architecture_has_a_role(bare):
    denoiser, _ = bare
    found = roles.layers(denoiser)
    assert [path for path in found if roles.role(path, found) == "other"] == []


def test_simpletuners_lists_match_what_they_match_and_stop_where_that_is_no_attention(bare):
    denoiser, _ = bare
    names = targets.literal_names(denoiser)
    hit = [path for path in roles.layers(denoiser) if f".{path}".endswith(tuple(f".{name}" for name in names))]
    attention = [path for path in hit if roles.role(path, roles.layers(denoiser)) == roles.SELF]
    if attention:
        text = {path for path in hit if roles.role(path, roles.layers(denoiser)) == roles.TEXT}
        assert set(attention) <= paths(denoiser, "simpletuner") == set(hit) - text
    else:
        with pytest.raises(UserError, match="names no attention module"):
            targets.choose_bare(denoiser, "simpletuner")


def test_simpletuners_lists_find_no_attention_on_many_models_and_roles_do():
    import diffusers
    import torch

    dead = []
    for name, record in DENOISERS.items():
        with torch.device("meta"):
            denoiser = getattr(diffusers, record["class"])(**record["config"])
        try:
            targets.choose_bare(denoiser, "simpletuner")
        except UserError:
            dead.append(name)
        assert targets.choose_bare(denoiser, "auto")
    assert dead == ["ernie_image", "flux3_image", "hunyuanimage21", "ideogram4", "kandinsky5_t2i", "krea2", "longcat_image",
                    "lumina2", "omnigen1", "ovis_image", "prx", "qwenimage", "qwenimage21", "sd3", "sd35", "stable_cascade_c",
                    "zimage"]


@pytest.mark.parametrize("preset", ["auto", "visual", "selfattn", "noxattn", "innoxattn", "full"])
def test_presets_find_attention_and_leave_text_alone(model, preset):
    family, parts = model
    found = targets.choose(family, parts, preset)
    assert any(target.role == targets.SELF for target in found)
    assert len({target.name for target in found}) == len(found)
    if preset not in targets.ON_PURPOSE:
        assert not [target.path for target in found for pattern in family.SPEC.never_touch if re.search(pattern, target.path)]


def test_a_family_and_the_bare_model_agree_on_what_a_slider_takes(model):
    family, parts = model
    assert {target.path for target in targets.choose(family, parts, "selfattn")} == paths(parts.denoiser, "selfattn")


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
    assert {"conv_in", "conv_out", "time_embedding.linear_1"} <= paths("visual") == paths("simpletuner")


def test_a_preset_without_attention_says_what_the_model_has():
    family = registry.get("sd3")
    with pytest.raises(UserError) as refused:
        targets.choose(family, family.tiny(), "xattn")
    assert "self-attention" in refused.value.problems[0].what


def test_the_log_counts_layers_by_kind_and_blocks_once():
    family = registry.get("sd1")
    parts = family.tiny()
    found = targets.choose(family, parts, "visual")
    kinds = [type(target.module).__name__ for target in found]
    text = targets.described("visual", found)
    assert f"{kinds.count('Linear')} Linear" in text and f"{kinds.count('Conv2d')} Conv2d" in text
    assert "4 of them outside the blocks" in text
    attention = [target for target in found if ".attn1." in target.path]
    blocks = {path.partition(".attn1.")[0] for path in (target.path for target in attention)}
    assert targets.described("x", attention) == f"x: {len(attention)} Linear in {len(blocks)} blocks"
