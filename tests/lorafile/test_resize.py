"""Resizing: what is kept is what the full singular value decomposition keeps, by kohya's rules."""

import pytest
import torch

from library.lorafile import factors, file, resize
from library.util.records import UserError
from library.util.tensorfile import read_metadata, read_tensors
from tests.lorafile import lora_files as made


def resized(tmp_path, tensors, **asked):
    source = made.saved(tmp_path / "big.safetensors", tensors, {"ss_training_comment": "mine", "ss_tag_frequency": "{}"})
    lora = file.read(source)
    request = resize.ResizeRequest.of(**asked)
    modules, report = resize.resize(lora, request)
    output = file.Output.of(str(tmp_path / "small.safetensors"), None, source)
    file.write(output, file.spelled(modules, lora.identity.format), resize.metadata_after(lora, request, report))
    return read_tensors(output.path), read_metadata(output.path)


def test_resized_modules_are_the_best_of_their_rank(tmp_path):
    before = made.lora(rank=8, alpha=4.0)
    after, _ = resized(tmp_path, before, rank=3)
    for stem in made.stems(before):
        left, values, right = torch.linalg.svd(made.product(before, stem), full_matrices=False)
        best = left[:, :3] * values[:3] @ right[:3]
        torch.testing.assert_close(made.product(after, stem), best, atol=1e-5, rtol=1e-5)
        assert after[f"{stem}.lora_down.weight"].shape[0] == 3
        assert float(after[f"{stem}.alpha"]) == pytest.approx(4.0 / 8 * 3)  # the scale stays


def kohyas_rank(values, method, param, most):
    """The rules of kohya's resize_lora.py on all singular values of the full matrix, but no more than the file's own rank.

    What reaches the aim is kept and one value more, so a module never has fewer than two.
    """
    total = float(values.sum())
    if method == "sv_ratio":
        count = int((values > values[0] / param).sum())
    elif method == "sv_cumulative":
        count = next(i for i in range(1, len(values) + 1) if float(values[:i].sum()) / total >= param)
    else:
        energy = float((values ** 2).sum())
        count = next(i for i in range(1, len(values) + 1) if float((values[:i] ** 2).sum()) / energy >= param ** 2)
    return min(max(count, 1) + 1, most, 8)


@pytest.mark.parametrize(("method", "param"), [("sv_ratio", 2.0), ("sv_ratio", 1.3), ("sv_fro", 0.9), ("sv_fro", 0.5),
                                               ("sv_cumulative", 0.8), ("sv_cumulative", 0.3)])
@pytest.mark.parametrize("most", [3, 8])
def test_dynamic_methods_choose_the_ranks_of_the_full_decomposition(tmp_path, method, param, most):
    before = made.lora(rank=8, alpha=8.0)
    after, metadata = resized(tmp_path, before, rank=most, dynamic=(method, param))
    for stem in made.stems(before):
        values = torch.linalg.svdvals(made.product(before, stem) / (8.0 / 8))
        assert after[f"{stem}.lora_down.weight"].shape[0] == kohyas_rank(values, method, param, most)
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "Dynamic"
    assert metadata["ss_training_comment"] == f"Dynamic resize with {method}: {param} from 8; mine"


@pytest.mark.parametrize(("method", "param", "kept"), [("sv_ratio", 3.0, 3), ("sv_ratio", 1.0, 2), ("sv_cumulative", 0.7, 3),
                                                        ("sv_fro", 0.9, 3), ("sv_fro", 0.99, 4)])
def test_a_dynamic_rank_is_one_above_what_reaches_the_aim(method, param, kept):
    values = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5])
    assert factors.RankRule(64, method, param).rank(values) == kept


def test_resizing_keeps_metadata_and_computes_hashes_anew(tmp_path):
    _, metadata = resized(tmp_path, made.lora(rank=8, alpha=4.0, convolution=False), rank=2)
    assert metadata["ss_tag_frequency"] == "{}"
    assert metadata["ss_training_comment"] == "dimension is resized from 8 to 2; mine"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("2", "1.0")
    assert metadata["sshs_model_hash"] != read_metadata(tmp_path / "big.safetensors")["sshs_model_hash"]


def test_thin_decomposition_has_the_full_ones_singular_values():
    g = torch.Generator().manual_seed(1)
    up, down = torch.randn(70, 9, generator=g), torch.randn(9, 50, generator=g)
    found = factors.thin_svd(up, down)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(up @ down)[:9], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.left * found.values @ found.right, up @ down, rtol=1e-4, atol=1e-4)


def test_an_empty_module_is_cut_to_rank_one(tmp_path):
    before = made.lora(convolution=False)
    before[made.STEM.format("q") + ".lora_up.weight"].zero_()
    after, _ = resized(tmp_path, before, rank=4)
    assert after[made.STEM.format("q") + ".lora_down.weight"].shape[0] == 1
    assert after[made.STEM.format("k") + ".lora_down.weight"].shape[0] == 4


def test_peft_files_stay_peft_files(tmp_path):
    g = torch.Generator().manual_seed(0)
    stem = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.randn(8, 20, generator=g),
               f"{stem}.lora_B.weight": torch.randn(24, 8, generator=g)}
    after, _ = resized(tmp_path, tensors, rank=8)
    assert set(after) == set(tensors)
    torch.testing.assert_close(after[f"{stem}.lora_B.weight"] @ after[f"{stem}.lora_A.weight"],
                               tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("asked", [{"dynamic": ("sv_fro", None)}, {"dynamic": (None, 0.9)}, {"rank": 0}])
def test_wishes_that_do_not_go_together_get_a_sentence(asked):
    with pytest.raises(UserError):
        resize.ResizeRequest.of(**{"rank": 4, **asked})


def test_the_result_is_never_written_over_its_source(tmp_path):
    source = made.saved(tmp_path / "a.safetensors", made.lora())
    with pytest.raises(UserError, match="read, too"):
        file.Output.of(str(tmp_path / "." / "a.safetensors"), None, source)


def test_files_that_are_no_lora_are_refused_in_words(tmp_path):
    whole = made.saved(tmp_path / "model.safetensors", {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 2)})
    with pytest.raises(UserError, match="not a LoRA"):
        file.read(whole)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(made.saved(tmp_path / "a.safetensors", made.lora()).read_bytes()[:-100])
    with pytest.raises(UserError, match="It is cut off"):
        file.read(cut)
    half = {k: v for k, v in made.lora().items() if not k.endswith("to_q.lora_up.weight")}
    with pytest.raises(UserError, match=r"has lora_down.weight but no lora_up.weight"):
        file.read(made.saved(tmp_path / "half.safetensors", half))
