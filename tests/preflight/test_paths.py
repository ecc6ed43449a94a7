"""A model or folder that is not there is a path that is wrong, with what stands near it: never a hub id."""

from __future__ import annotations

import pytest

from library.preflight.registry import Context
from library.util.records import Problem

from .cases import put
from .world import World, fire


def of_model(world: World, typed: str, **more: object) -> list[Problem]:
    context: Context = world.context(pretrained_model_name_or_path=typed, **more)
    return fire("model_not_found", context)


@pytest.mark.parametrize(("typed", "words"), [
    ("models/foo.safetensors", 'in {root}/models there is no "foo.safetensors"'),
    ("models/bas.safetensors", "In {root}/models there is: base.safetensors"),
    ("models/base", "In {root}/models there is: base.safetensors"),
    ("models/sd15", "holds: base.safetensors"),
    ("modles/base.safetensors", "In {root} there is: models"),
    ("./foo", 'in {root} there is no "foo"'),
    ("foo.ckpt", "relative paths start from {root}"),
    ("foo", "A model of the hub is written user/name"),
    (r"C:\models\foo.safetensors", "this computer runs Linux"),
    ("a/b/c", 'there is no "a"'),
    ("~/none/x.safetensors", 'there is no "none"'),
])
def test_a_model_that_is_not_there_is_never_taken_for_a_hub_id(world: World, typed: str, words: str) -> None:
    (found,) = of_model(world, typed)
    said = f"{found.what} {found.remedy}".replace(str(world.root), "{root}").replace("\\models", "/models")
    assert found.severity == "stop" and words in said


def test_a_path_that_is_right_from_the_config_files_folder_is_given_whole(world: World) -> None:
    config = put(world.root / "conf" / "a.toml", "")
    model = put(world.root / "conf" / "ckpt" / "b.safetensors", b"x")
    (found,) = of_model(world, "ckpt/b.safetensors", config_file=str(config))
    assert str(model) in found.remedy and str(world.root) in found.what
    (world.root / "conf" / "pictures").mkdir()
    (found,) = fire("folder_missing", world.context(train_data_dir="pictures", config_file="conf/a.toml"))
    assert str(world.root / "conf" / "pictures") in found.remedy


def test_a_name_of_the_hub_in_whose_folder_something_else_lies_is_looked_for_here_when_the_hub_is_away(world: World) -> None:
    put(world.root / "sd" / "one.safetensors", b"x")
    context = world.context(pretrained_model_name_or_path="sd/two", machine={"env": {"HF_HUB_OFFLINE": "1"}})
    (found,) = fire("hub_unreachable", context)
    assert "one.safetensors" in found.remedy and "was not found" in found.what
