import json
from pathlib import Path

import pytest

from library.data.buckets import BucketRules, kept_region, whole_steps
from library.util.records import UserError

GOLDENS = json.loads((Path(__file__).parents[1] / "data" / "bucket_goldens.json").read_text(encoding="utf-8"))


def rules(setting):
    return BucketRules(tuple(setting["resolution"]), setting["min"], setting["max"], setting["steps"], setting["no_upscale"])


@pytest.mark.parametrize("setting", GOLDENS["settings"], ids=lambda s: f"{s['resolution']}-{s['steps']}-{s['no_upscale']}")
def test_buckets_sizes_and_cuts_equal_kohyas(setting):
    made = rules(setting)
    if setting["predefined"]:
        assert [list(size) for size in made.sizes] == setting["predefined"]
    for case in setting["cases"]:
        size = tuple(case["size"])
        if "error" in case or 0 in case["bucket"]:  # kohya divides by 0, or trains on a bucket 0 pixels wide
            with pytest.raises(UserError):
                made.place(size)
            continue
        placed = made.place(size)
        assert [*placed.bucket] == case["bucket"] and [*placed.resized] == case["resized"], case
        assert placed.ratio_error == pytest.approx(case["ar_error"], abs=1e-12), case
        assert [*placed.centre_offset] == case["center_crop_offset"], case
        assert [*kept_region(size, placed.bucket)] == pytest.approx(case["crop_ltrb"]), case


@pytest.mark.parametrize("case", GOLDENS["adjust_min_max"], ids=str)
def test_smallest_and_largest_side_are_rounded_to_steps_or_refused(case):
    resolution, low, high, step = case["in"]
    adjusted, problems = whole_steps(BucketRules(tuple(resolution), low, high, step))
    if "error" in case:
        assert any(problem.severity == "stop" for problem in problems)
    else:
        assert [adjusted.min_side, adjusted.max_side] == case["out"]
        assert all(problem.severity == "note" for problem in problems)


def test_a_smallest_side_below_one_step_becomes_one_step():
    adjusted, problems = whole_steps(BucketRules((128, 128), 32, 256, 64))
    assert adjusted.min_side == 64 and [problem.severity for problem in problems] == ["note"]
    assert min(min(size) for size in adjusted.sizes) == 64


def test_a_resolution_below_one_step_is_refused_and_the_scan_goes_on():
    adjusted, problems = whole_steps(BucketRules((32, 32), 32, 256, 64))
    assert [problem.where for problem in problems if problem.severity == "stop"] == ["--resolution"]
    assert adjusted.place((96, 64)).bucket == (64, 64)
