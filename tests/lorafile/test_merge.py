"""Merging LoRA files: kohya's sum of factors, the exact sum, the exact sum cut to a rank, block weights, sliders."""

from pathlib import Path

import pytest
import torch

from library.lorafile import file, lbw, merge
from library.util.records import UserError
from networks import keys
from tests.lorafile import lora_files as made


@pytest.fixture
def files(tmp_path):
    """Two files of different rank, one of the first's rank."""
    tensors = [made.lora(8, 4.0, seed=1), made.lora(4, 4.0, seed=2), made.lora(8, 2.0, seed=3)]
    return [(str(made.saved(tmp_path / f"{i}.safetensors", t)), t) for i, t in enumerate(tensors)]


def exact_sum(tensors, ratios, stem):
    return sum(made.product(t, stem) * r for t, r in zip(tensors, ratios, strict=True))


@pytest.mark.parametrize("way", ["concat", "svd"])
def test_merging_files_adds_what_they_amount_to(files, way):
    paths, tensors = zip(*files[:2], strict=True)
    every = merge.shares(paths, [0.7, -0.5])
    modules = merge.concatenated(every) if way == "concat" else merge.svd_merged(every, 12)
    merged = keys.flatten(modules)
    for stem in made.stems(tensors[0]):
        torch.testing.assert_close(made.product(merged, stem), exact_sum(tensors, (0.7, -0.5), stem), rtol=1e-4, atol=1e-4)


def test_svd_merge_is_the_best_of_its_rank(files):
    paths, tensors = zip(*files[:2], strict=True)
    merged = keys.flatten(merge.svd_merged(merge.shares(paths, [0.7, 0.5]), 3, 2))
    for stem in made.stems(tensors[0]):
        left, values, right = torch.linalg.svd(exact_sum(tensors, (0.7, 0.5), stem), full_matrices=False)
        rank = 2 if "conv1" in stem else 3
        best = left[:, :rank] * values[:rank] @ right[:rank]
        torch.testing.assert_close(made.product(merged, stem), best, rtol=1e-4, atol=1e-4)
        assert float(merged[f"{stem}.alpha"]) == rank == merged[f"{stem}.lora_down.weight"].shape[0]


def test_plain_merge_adds_factors_as_kohyas_does(files):
    (one, a), (_, _), (other, b) = files
    merged = keys.flatten(merge.add_factors(merge.shares([one, other], [0.6, -0.4])))
    stem = made.STEM.format("k")
    scale = (2.0 / 4.0) ** 0.5  # alphas of the second and the first file
    down = a[f"{stem}.lora_down.weight"] * 0.6 + b[f"{stem}.lora_down.weight"] * (-0.4 * scale)
    up = a[f"{stem}.lora_up.weight"] * 0.6 + b[f"{stem}.lora_up.weight"] * (0.4 * scale)
    torch.testing.assert_close(merged[f"{stem}.lora_down.weight"], down)
    torch.testing.assert_close(merged[f"{stem}.lora_up.weight"], up)
    assert float(merged[f"{stem}.alpha"]) == 4.0


def test_plain_merge_of_different_ranks_names_the_way_out(files):
    with pytest.raises(UserError, match="rank 8 and 4"):
        merge.add_factors(merge.shares([files[0][0], files[1][0]], [1, 1]))


def test_shuffling_ranks_changes_nothing(files):
    modules = merge.concatenated(merge.shares([files[0][0]], [1.0]))
    stem = made.STEM.format("q")
    mixed = merge.shuffled(modules, seed=1)
    assert not torch.equal(mixed[stem][keys.DOWN], modules[stem][keys.DOWN])
    torch.testing.assert_close(made.product(keys.flatten(mixed), stem), made.product(keys.flatten(modules), stem))


def test_block_weights_scale_their_blocks_only(files):
    paths, tensors = zip(*files[:1], strict=True)
    weights = [1.0] * 26
    weights[2] = 0.25  # IN01: the first attention block on the way down
    every = merge.shares(paths, [2.0], [str(weights)])
    merged = keys.flatten(merge.concatenated(every))
    for stem in made.stems(tensors[0]):
        expected = made.product(tensors[0], stem) * 2.0 * 0.25
        torch.testing.assert_close(made.product(merged, stem), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stem", "place"), [
    ("lora_te_text_model_encoder_layers_3_mlp_fc1", 0), ("lora_unet_mid_block_attentions_0_proj_in", 13),
    ("lora_unet_down_blocks_1_attentions_0_proj_in", 5), ("lora_unet_down_blocks_0_downsamplers_0_conv", 4),
    ("lora_unet_up_blocks_1_attentions_2_proj_out", 19), ("lora_unet_up_blocks_0_upsamplers_0_conv", 16),
    ("lora_unet_input_blocks_4_1_proj_in", 5), ("lora_unet_middle_block_1_proj_in", 13),
    ("lora_unet_output_blocks_5_1_proj_in", 19)])
def test_blocks_have_the_places_that_block_weights_count(stem, place):
    assert lbw.place_of(stem) == place


def test_block_weights_of_another_length_are_refused():
    with pytest.raises(UserError, match="has 3 numbers"):
        lbw.parse(["[1,0,1]"])
    with pytest.raises(UserError, match="not a list of numbers"):
        lbw.parse(["strong"])


def test_sliders_without_overlap_reach_no_input_together(files):
    every = merge.orthogonal(merge.shares([files[0][0], files[1][0]], [1.0, 1.0]))
    for stem in made.stems(files[0][1]):
        first, second = (share.lora.modules[stem][keys.DOWN].flatten(1) for share in every)
        assert float((first @ second.T).abs().max()) < 1e-4
        assert float(second.norm()) > 0.1


def test_the_overlap_is_the_part_of_the_change_that_was_taken_out(files):
    plain = merge.shares([files[0][0], files[1][0]], [1.0, 1.0])
    apart = merge.orthogonal(plain)
    squares = [sum(float(made.product(keys.flatten(share.lora.modules), stem).norm() ** 2) for stem in share.lora.modules)
               for share in (plain[1], apart[1])]
    assert merge.overlap(plain[1], apart[1]) == pytest.approx(1 - squares[1] / squares[0], abs=1e-5)
    assert merge.overlap(plain[0], apart[0]) == pytest.approx(0, abs=1e-5)
    twice = merge.orthogonal([plain[0], plain[0]])
    assert merge.overlap(plain[0], twice[1]) == pytest.approx(1, abs=1e-5)


def test_files_with_nothing_in_common_are_refused(tmp_path, files):
    other = {key.replace("down_blocks_0", "down_blocks_2"): t for key, t in files[0][1].items()}
    path = made.saved(tmp_path / "other.safetensors", other)
    with pytest.raises(UserError, match="no module in common"):
        merge.concatenated(merge.shares([files[0][0], str(path)], [1, 1]))


def test_numbers_of_files_and_ratios_must_be_equal(files):
    with pytest.raises(UserError, match="1 were given for 2 files"):
        merge.shares([files[0][0], files[1][0]], [1.0])


def test_merged_metadata_name_the_sources_and_the_base(files):
    every = merge.shares([files[0][0], files[2][0]], [0.5, 0.5])
    metadata = merge.metadata_of(every, merge.concatenated(every), False, "both")
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"].removesuffix(".0") == "16"
    assert metadata["modelspec.merged_from"] == "0, 2"


def test_each_slider_keeps_its_own_effect_better_without_overlap():
    """Two sliders with directions of their own and one that both have: turning one must leave the other's inputs alone."""
    g = torch.Generator().manual_seed(0)
    size, shared = 40, torch.randn(2, 40, generator=g)
    sliders = []
    for _ in range(2):
        down = torch.cat((torch.randn(4, size, generator=g), shared + 0.1 * torch.randn(2, size, generator=g)))
        sliders.append({"lora_down.weight": down, "lora_up.weight": torch.randn(30, 6, generator=g), "alpha": torch.tensor(6.0)})
    files = [file.LoraFile({"lora_unet_x": parts}, {}, keys.Identity("lora", "kohya", 1), Path("x.safetensors"))
             for parts in sliders]
    alone = [parts["lora_up.weight"] @ parts["lora_down.weight"] for parts in sliders]

    def off(shares):
        """How far the sum is from each slider's own effect, on inputs that only this slider's rows reach."""
        whole = merge.summed("lora_unet_x", shares).weight()
        found = []
        for mine in (0, 1):
            x = torch.linalg.qr(shares[mine].lora.modules["lora_unet_x"]["lora_down.weight"].T).Q
            want = alone[mine] @ x
            found.append(float((whole @ x - want).norm() / want.norm()))
        return found

    plain = [merge.Share(one, 1.0) for one in files]
    assert all(better < worse for better, worse in zip(off(merge.orthogonal(plain)), off(plain), strict=True))
