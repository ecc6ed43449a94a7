import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from library.config.run_config import SubsetConfig
from library.data.captions import Moment, base_caption, make, settled

GOLDENS = json.loads((Path(__file__).parents[1] / "data" / "caption_goldens.json").read_text(encoding="utf-8"))
CASES = [case for cases in GOLDENS.values() for case in cases]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['caption'][:12]!r}-{case['options']}-{case['step']}")
def test_captions_equal_kohyas(case):
    subset = replace(SubsetConfig(image_dir=None), **case["options"])
    moment = Moment(case["epoch"], case["step"], case["max_train_steps"])
    assert make(case["caption"], subset, moment, random.Random(case["seed"])) == case["result"]


def test_a_settled_caption_leaves_nothing_to_chance():
    subset = SubsetConfig(image_dir=None, shuffle_caption=True, caption_dropout_rate=0.9, caption_tag_dropout_rate=0.5,
                          caption_prefix="zobi,", enable_wildcard=True)
    told = {settled("a, b, {c|d}, e", subset) for _ in range(9)}
    assert len(told) == 1 and told.pop() in ("zobi, a, b, c, e", "zobi, a, b, d, e")


def test_only_wildcards_read_more_than_the_first_line():
    subset = SubsetConfig(image_dir=None)
    assert base_caption(["a", "b"], subset) == "a"
    assert base_caption(["a", "b"], replace(subset, enable_wildcard=True)) == "a\nb"
