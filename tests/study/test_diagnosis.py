"""What figures say of a file, and that the figures are what they are called."""

import json
import math
import random
from dataclasses import replace

import pytest

from library.study import diagnosis
from library.study.diagnosis import Copied, Evidence, judge
from library.study.trial import Curve


def curve(half, whole, more, composition=0.4):
    return Curve((1.0, half, whole, more), (0.0, 0.1, 0.4, 0.8), composition, 16)


SETTLED = curve(0.52, 0.28, 0.40)
UNHARMED = curve(1.0, 1.1, 1.4)
GOOD = Evidence(SETTLED, UNHARMED, "the regularisation pictures")


def test_a_settled_file_that_harms_nothing_is_good():
    assert judge(GOOD).kind == "good"
    assert "0.28" in judge(GOOD).lines()[0] and "1.10" in judge(GOOD).lines()[0]


def test_a_file_that_more_strength_would_help_is_undertrained():
    verdict = judge(replace(GOOD, trained=curve(0.75, 0.58, 0.52)))
    assert verdict.kind == "undertrained" and any("steps" in line for line in verdict.lines())


def test_a_file_that_changes_nothing_is_undertrained_whatever_its_best_strength():
    assert judge(Evidence(curve(1.0, 0.999, 0.9995), curve(1.0, 1.0, 1.001))).kind == "undertrained"


def test_harm_to_other_pictures_or_a_best_strength_below_one_is_overtrained():
    harmed = judge(replace(GOOD, others=curve(2.0, 4.0, 9.0), has_regularisation=False, seen=500))
    assert harmed.kind == "overtrained"
    assert any("--reg_data_dir" in line for line in harmed.lines()) and any("500 times" in line for line in harmed.lines())
    assert judge(replace(GOOD, trained=curve(0.40, 0.45, 1.5))).kind == "overtrained"


def test_harm_counts_against_what_was_gained():
    """On a full-size model a good file wins a few hundredths of the loss; as much lost elsewhere is too dear."""
    assert judge(Evidence(curve(0.97, 0.95, 0.96), curve(1.0, 1.01, 1.05), "x")).kind == "good"
    assert judge(Evidence(curve(0.97, 0.95, 0.96), curve(1.0, 1.06, 1.15), "x")).kind == "overtrained"


def test_values_that_are_no_numbers_are_damage_before_anything_else():
    assert judge(replace(GOOD, not_numbers=3)).kind == "damaged"
    assert judge(replace(GOOD, others=curve(1.0, math.nan, 1.0))).kind == "damaged"
    assert judge(Evidence(curve(1.2, 3.0, 9.0))).kind == "damaged"


def test_damage_points_to_an_earlier_file_first():
    assert diagnosis.FROM_BEFORE in judge(replace(GOOD, not_numbers=1)).lines()[1]


def test_layers_far_beyond_the_others_are_overtrained_and_one_is_named():
    found = judge(replace(GOOD, exploded=["lora_unet_mid_attn1", "lora_unet_up_attn1"]))
    assert found.kind == "overtrained" and "2 layers are" in found.lines()[0] and "lora_unet_mid_attn1" in found.lines()[0]


def test_of_two_faults_the_worse_decides_and_alone_is_told():
    both = judge(replace(GOOD, others=curve(2.0, 4.0, 9.0), copies=[Copied("zobi", "003.png", 0.2)]))
    assert [one.kind for one in both.findings] == ["overtrained", "over-fitted"]
    assert both.kind == "overtrained" and not any("003.png" in line or "varied" in line for line in both.lines())


def test_a_good_file_that_costs_other_pictures_something_is_told_of_regularisation():
    paid = replace(GOOD, others=curve(1.2, 1.35, 2.0), has_regularisation=False)
    assert judge(paid).kind == "good" and any("--reg_data_dir" in line for line in judge(paid).lines())
    assert len(judge(replace(paid, has_regularisation=True)).lines()) == len(judge(replace(paid, others=UNHARMED)).lines()) == 1


def test_repeats_are_blamed_only_where_pictures_were_seen_often():
    often, seldom = (judge(replace(GOOD, others=curve(2.0, 4.0, 9.0), seen=seen)).lines() for seen in (300, 30))
    assert any("repeats" in line for line in often) and not any("repeats" in line for line in seldom)


def test_two_validation_losses_say_nothing_yet():
    assert judge(replace(GOOD, validation=[(10, 0.4), (20, 0.8)])).kind == "good"


def test_copies_and_a_risen_validation_loss_are_over_fitting():
    copied = judge(replace(GOOD, copies=[Copied("zobi", "003.png", 0.2), Copied("zobi", "001.png", 0.9)]))
    assert copied.kind == "over-fitted" and "the 2 that were drawn: 1 " in copied.lines()[0] and "003.png" in copied.lines()[0]
    heart = judge(replace(GOOD, trained=curve(0.4, 0.1, 0.2, composition=0.1)))
    assert heart.kind == "over-fitted" and "by heart" in heart.lines()[0]
    risen = judge(replace(GOOD, validation=[(10, 0.5), (20, 0.4), (30, 0.44)]))
    assert risen.kind == "over-fitted" and any("step 20" in line for line in risen.lines())
    assert judge(replace(GOOD, validation=[(10, 0.5), (20, 0.4), (30, 0.401)])).kind == "good"


def test_a_run_whose_loss_has_risen_has_gone_wrong():
    fallen = [0.1 - 0.0003 * step for step in range(250)]
    assert judge(replace(GOOD, losses=fallen)).kind == "good"
    assert judge(replace(GOOD, losses=[*fallen, *[0.5] * 50])).kind == "overtrained"
    for seed in range(20):
        draw = random.Random(seed)
        scattered = [draw.expovariate(1 / 0.1) for _ in range(400)]
        assert judge(replace(GOOD, losses=scattered)).kind == "good", "the losses of single steps scatter as widely as their mean"


def test_remedies_name_the_settings_that_the_run_had():
    setting = diagnosis.Setting(3e-3, 16, 500)
    over = judge(replace(GOOD, others=curve(2.0, 4.0, 9.0), setting=setting)).lines()
    assert any("0.001 in place of 0.003" in line for line in over) and any("alpha 1 in place of 16" in line for line in over)
    assert any("1000 steps in place of 500" in line for line in judge(
        replace(GOOD, trained=curve(0.75, 0.58, 0.52), setting=setting)).lines())
    gentle = judge(replace(GOOD, others=curve(2.0, 4.0, 9.0), setting=diagnosis.Setting(1e-3, 1, 500))).lines()
    assert not any("alpha" in line for line in gentle)


def test_without_a_trial_nothing_is_claimed():
    assert judge(Evidence()).kind == "not judged"


def test_the_strength_to_try_is_where_gain_exceeds_harm_by_most():
    assert diagnosis.strength_to_try(SETTLED, None) == 1.0
    assert diagnosis.strength_to_try(curve(0.6, 0.3, 0.5), curve(1.05, 2.5, 6.0)) <= 0.6


def test_the_best_strength_is_the_lowest_point_of_the_curve():
    made = Curve(tuple(1 + (s - 1.2) ** 2 - 1.44 for s in (0.0, 0.5, 1.0, 1.5)), (0.0,) * 4, 1.0, 1)
    assert made.best_strength == pytest.approx(1.2)
    assert curve(0.8, 0.6, 0.4).best_strength == 1.5 and curve(1.1, 1.2, 1.3).best_strength == 0.5


def test_a_verdict_is_readable_by_programs():
    read = json.loads(json.dumps(judge(GOOD).as_json()))
    assert read["verdict"] == "good" and read["figures"]["gain"] == pytest.approx(0.72)
    broken = judge(replace(GOOD, others=curve(1.0, math.nan, 1.0), growth={"mid": 1.2, "up": 1.5})).as_json()["figures"]
    assert broken["growth"] == 1.5 and broken["loss on others"] is None, "NaN is no JSON"


def test_copies_are_measured_against_what_the_base_model_draws():
    import torch

    from library.study.copying import Pictured, copies

    generator = torch.Generator().manual_seed(0)
    training, base = ([torch.randn(4, 8, 8, generator=generator) for _ in range(6)] for _ in range(2))
    drawn = [training[2].flip(-1) + 0.1 * torch.randn(4, 8, 8, generator=generator), torch.randn(4, 8, 8, generator=generator)]
    found = copies(Pictured(["a", "b"], drawn), Pictured(["a", "b"], base[:2]), Pictured([f"{n}.png" for n in range(6)], training))
    assert found[0].nearest == "2.png" and found[0].distance < 0.2, "a mirrored copy"
    assert found[1].distance > 0.8
    alike = [training[n] + 0.3 * torch.randn(4, 8, 8, generator=generator) for n in range(2)]  # a subject that varies little
    stricter = copies(Pictured(["a", "b"], drawn), Pictured(["a", "b"], alike), Pictured([f"{n}.png" for n in range(6)], training))
    assert all(now.distance > 1.5 * then.distance for now, then in zip(stricter, found, strict=True))


def test_tags_beside_the_trigger_pictures_of_one_kind_and_scattered_subjects_are_named(tmp_path):
    import torch

    from library.study import remarks

    class Item:
        is_reg, has_caption = False, True

        def __init__(self, path, caption):
            self.path, self.caption = path, caption

    items = [Item(f"{n}.png", f"anna, 1girl, {random.Random(n).choice(['red', 'blue'])} dress") for n in range(10)]
    assert '"1girl"' in remarks.on_tags(items)[0] and "anna" not in remarks.on_tags(items)[0]
    assert remarks.on_count(items[:3]) and not remarks.on_count(items)
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(4, 8, 8, generator=generator)
    alike = [one + 0.2 * torch.randn(4, 8, 8, generator=generator) for _ in range(6)]
    assert "resemble" in remarks.on_latents(alike)[0]
    different = [torch.randn(4, 8, 8, generator=generator) for _ in range(6)]
    assert not remarks.on_latents(different)
    for number, latent in enumerate(different):
        latent[:, :, 0 if number % 2 else 7] += 9.0
    assert "split views" in remarks.on_latents(different)[0]
