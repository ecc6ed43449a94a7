"""Files that peft and lycoris made go through every tool, and those libraries read back what comes out."""

import copy

import pytest
import torch

from library.families import registry as families
from library.families.interface import LoadRequest
from library.lorafile import file, merge
from library.lorafile.merge_model import merge_into
from library.lorafile.modelfile import open_model
from library.sample import loras
from library.util.records import UserError
from library.util.tensorfile import read_tensors
from networks import keys, registry
from networks.request import NetworkRequest
from tests.lorafile import models
from tests.lorafile.test_commands import run
from tests.lorafile.test_merge_model import predicted

FAMILY = families.get("sd1")
LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture(autouse=True)
def plain_kernels(monkeypatch):
    monkeypatch.setenv("LYCORIS_KERNEL_BACKEND", "torch")
    models.with_tiny_sizes(monkeypatch)


def output(parts, denoiser=None):
    own = copy.copy(parts)
    own.denoiser = denoiser or parts.denoiser
    with torch.no_grad():
        return predicted(FAMILY, own)


def request(parts, **more):
    return NetworkRequest(FAMILY.adapter_targets(parts), 4, 2.0, text_encoders=parts.text_encoders, denoiser=parts.denoiser,
                          train_text_encoder=False, extra_targets=FAMILY.extra_targets(parts), **more)


def merged_output(source, tmp_path, strength=1.0):
    """The output of a model that a file was merged into."""
    plain = tmp_path / "model"
    if not plain.exists():
        models.written("sd1 folder", models.tiny("sd1"), tmp_path)
    merge_into(open_model(str(plain)), merge.shares([str(source)], [strength]), tmp_path / "merged", None)
    parts = models.tiny("sd1")
    parts.denoiser = FAMILY.load(LoadRequest(str(tmp_path / "merged"), parts.options, parts=frozenset({"denoiser"}))).denoiser
    return output(parts)


# ------------------------------------------------------------------------------------------------------------- peft

PEFT = {
    "LoRA": lambda p: p.LoraConfig(r=4, lora_alpha=6, target_modules=[*LAYERS, "conv1"], init_lora_weights=False),
    "LoRA of several ranks": lambda p: p.LoraConfig(r=4, lora_alpha=2, target_modules=LAYERS, init_lora_weights=False,
                                                    use_rslora=True, rank_pattern={"to_k": 2}, alpha_pattern={"attn2.to_q": 5}),
    "LoHa": lambda p: p.LoHaConfig(r=2, alpha=3, target_modules=LAYERS, init_weights=False),
    "LoKr": lambda p: p.LoKrConfig(r=2, alpha=3, target_modules=LAYERS, init_weights=False),
    "DoRA": lambda p: p.LoraConfig(r=4, lora_alpha=6, target_modules=LAYERS, use_dora=True, init_lora_weights=False),
}


def made_by_peft(kind, folder):
    """(file, the output of the model that peft holds)."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    parts = models.tiny("sd1")
    theirs = peft.get_peft_model(parts.denoiser, PEFT[kind](peft))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1.2)
            elif parameter.requires_grad:
                parameter.normal_(std=0.2)
    theirs.save_pretrained(folder)
    return folder / "adapter_model.safetensors", output(parts, theirs.base_model.model)


def read_by_peft(path):
    """The output of a model for which peft reads a LoRA file in its own names, whose scale is 1."""
    import peft

    tensors = {key.removeprefix("unet."): tensor for key, tensor in file.peft_files.read(path).items()}
    downs = {key.removesuffix(".lora_A.weight"): len(t) for key, t in tensors.items() if key.endswith(".lora_A.weight")}
    ranks = {stem.removeprefix("base_model.model."): rank for stem, rank in downs.items()}
    dora = any("magnitude" in key for key in tensors)
    config = peft.LoraConfig(r=1, lora_alpha=1, target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=ranks, use_dora=dora)
    parts = models.tiny("sd1")
    theirs = peft.get_peft_model(parts.denoiser, config)
    back = {"base_model.model." + key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
    assert not peft.set_peft_model_state_dict(theirs, back).unexpected_keys
    return output(parts, theirs.base_model.model)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", PEFT)
def test_what_peft_wrote_acts_the_same_here_and_merged_and_in_other_names(kind, tmp_path):
    source, wanted = made_by_peft(kind, tmp_path)
    assert (output(models.tiny("sd1")) - wanted).abs().max() > 0.01
    close(merged_output(source, tmp_path), wanted)
    assert run("networks/convert_lora.py", source, "--to", "kohya", "--family", "sd1", "--save_to", tmp_path / "k.safetensors") == 0
    for path in (source, tmp_path / "k.safetensors"):
        parts = models.tiny("sd1")
        tensors = file.peft_files.read(path)
        network, _ = registry.create_from_weights(registry.module_of(tensors), request(parts), tensors, for_inference=True)
        network.apply_to(parts.text_encoders, parts.denoiser, False, True)
        network.load_tensors(tensors)
        close(output(parts), wanted)


@pytest.mark.parametrize("kind", [kind for kind in PEFT if kind != "DoRA"])
def test_peft_reads_back_what_was_resized_merged_and_renamed(kind, tmp_path):
    source, wanted = made_by_peft(kind, tmp_path)
    out, last = tmp_path / "out.safetensors", tmp_path / "diffusers.safetensors"
    for argv in (["networks/resize_lora.py", "--model", source, "--new_rank", 64],
                 ["networks/svd_merge_lora.py", "--models", source, source, "--ratios", 0.25, 0.75, "--new_rank", 64],
                 ["networks/merge_lora.py", "--concat", "--models", source, source, "--ratios", 0.5, 0.5]):
        assert run(*argv, "--save_to", out) == 0
        assert run("networks/convert_lora.py", out, "--to", "diffusers", "--family", "sd1", "--save_to", last) == 0
        close(read_by_peft(last), wanted)


def test_peft_reads_back_a_dora_that_was_renamed_twice(tmp_path):
    source, wanted = made_by_peft("DoRA", tmp_path)
    for number, (path, to) in enumerate(((source, "kohya"), (tmp_path / "0.safetensors", "diffusers"))):
        assert run("networks/convert_lora.py", path, "--to", to, "--family", "sd1", "--save_to",
                   tmp_path / f"{number}.safetensors") == 0
    close(read_by_peft(tmp_path / "1.safetensors"), wanted)


@pytest.mark.parametrize(("config", "name"), [("OFTConfig", "OFT"), ("BOFTConfig", "BOFT"), ("IA3Config", "(IA)^3"),
                                              ("VeraConfig", "VeRA")])
def test_adapters_that_only_peft_runs_are_called_by_their_names(config, name, tmp_path):
    peft = pytest.importorskip("peft")
    more = {"OFTConfig": {"oft_block_size": 8}, "BOFTConfig": {"boft_block_size": 8}, "IA3Config": {"feedforward_modules": []},
            "VeraConfig": {"r": 2}}[config]
    layers = ["attn1.to_q"]
    theirs = peft.get_peft_model(models.tiny("sd1").denoiser, getattr(peft, config)(target_modules=layers, **more))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UserError) as error:
        file.read(tmp_path / "adapter_model.safetensors")
    assert f"peft's {name}" in error.value.problems[0].what


def test_the_scale_that_diffusers_writes_into_the_header_is_read_and_not_told_twice(tmp_path):
    pytest.importorskip("peft")
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401  (their savers live on the models)
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    parts = models.tiny("sd1")
    parts.denoiser.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=LAYERS, init_lora_weights=False))
    wanted = output(parts)
    config = parts.denoiser.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(parts.denoiser),
                                              unet_lora_adapter_metadata={k: list(v) if isinstance(v, set) else v
                                                                          for k, v in config.items()})
    source = tmp_path / "pytorch_lora_weights.safetensors"
    close(merged_output(source, tmp_path), wanted)
    assert run("networks/resize_lora.py", "--model", source, "--new_rank", 4, "--save_to", tmp_path / "o.safetensors") == 0
    other = models.tiny("sd1")
    other.denoiser.load_lora_adapter(read_tensors(tmp_path / "o.safetensors"), prefix="unet")
    close(output(other), wanted)


# ---------------------------------------------------------------------------------------------------------- lycoris

PRODUCTS = ["locon", "loha", "lokr", "dylora"]
OTHERS = ["glora", "diag-oft", "boft", "ia3", "full"]


def made_by_lycoris(algo, path):
    pytest.importorskip("lycoris")
    torch.manual_seed(0)
    parts = models.tiny("sd1")
    preset = "attn-only" if algo in ("full", "boft") else "full"  # BOFT cannot divide every layer of the tiny model
    network = registry.attach("lycoris.kohya", request(parts, args={"algo": algo, "preset": preset}))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.02 if algo in ("full", "glora") else 0.1))
    network.eval()
    network.save_weights(path, None, {"ss_base_model_version": "sd_v1"})
    if algo == "dylora":  # it draws its rank at every call, in evaluation too: what it saves is what it amounts to
        return merged_output(path, path.parent)
    return output(parts)


def read_by_lycoris(path):
    parts = models.tiny("sd1")
    network = registry.attach("lycoris.kohya", request(parts, weights=path, dim_from_weights=True))
    network.eval()
    return output(parts)


@pytest.mark.parametrize("algo", PRODUCTS + OTHERS)
def test_lycoris_reads_back_what_was_renamed_and_merging_does_what_it_computes(algo, tmp_path):
    source = tmp_path / "a.safetensors"
    wanted = made_by_lycoris(algo, source)
    assert (output(models.tiny("sd1")) - wanted).abs().max() > 0.003
    close(merged_output(source, tmp_path), wanted)
    parts = models.tiny("sd1")
    loras.hang(FAMILY, parts, (source, 1.0))  # as pictures are drawn with it
    close(output(parts), wanted)
    for number, (path, to) in enumerate(((source, "comfy"), (tmp_path / "0.safetensors", "kohya"))):
        assert run("networks/convert_lora.py", path, "--to", to, "--family", "sd1", "--save_to",
                   tmp_path / f"{number}.safetensors") == 0
    back = keys.identify(read_tensors(tmp_path / "1.safetensors"))
    assert (back.kind, back.modules) == (file.read(source).identity.kind, file.read(source).identity.modules)
    close(read_by_lycoris(tmp_path / "1.safetensors"), wanted)


HALF = {"rotations": {"algo": "diag-oft"}, "rotations in stages": {"algo": "boft", "preset": "attn-only"},
        "factors of inputs and outputs": {"algo": "ia3", "preset": "ia3"}, "norms": {"algo": "locon", "train_norm": "True"}}


@pytest.mark.parametrize("case", HALF)
def test_merging_at_half_strength_does_what_lycoris_does_there(case, tmp_path):
    pytest.importorskip("lycoris")
    torch.manual_seed(0)
    parts, source = models.tiny("sd1"), tmp_path / "a.safetensors"
    network = registry.attach("lycoris.kohya", request(parts, args={"preset": "full", **HALF[case]}))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.eval()
    network.save_weights(source, None, {"ss_base_model_version": "sd_v1"})
    assert any("w_norm" in name for name in read_tensors(source)) == (case == "norms")
    network.set_multiplier(0.5)
    wanted = output(parts)
    close(merged_output(source, tmp_path, 0.5), wanted)
    assert (merged_output(source, tmp_path, 1.0) - wanted).abs().max() > 0.003


@pytest.mark.parametrize("algo", PRODUCTS)
def test_lycoris_reads_back_what_was_resized_and_merged(algo, tmp_path):
    source, out = tmp_path / "a.safetensors", tmp_path / "o.safetensors"
    wanted = made_by_lycoris(algo, source)
    for argv in (["networks/resize_lora.py", "--model", source, "--new_rank", 64],
                 ["networks/svd_merge_lora.py", "--models", source, source, "--ratios", 0.25, 0.75, "--new_rank", 64]):
        assert run(*argv, "--save_to", out) == 0
        close(read_by_lycoris(out), wanted)


@pytest.mark.parametrize("algo", OTHERS[::2])
def test_kinds_without_thin_factors_are_refused_by_name(algo, tmp_path, capsys):
    source = tmp_path / "a.safetensors"
    made_by_lycoris(algo, source)
    for argv in (["networks/resize_lora.py", "--model", source], ["networks/svd_merge_lora.py", "--models", source, "--ratios", 1],
                 ["networks/merge_lora.py", "--concat", "--models", source, "--ratios", 1]):
        assert run(*argv, "--save_to", tmp_path / "o.safetensors") == 1
        assert "Merge the file into its model instead" in " ".join(capsys.readouterr().err.replace("┃", " ").split())
