"""What flags do to a run: those that should change the training change it, those that concern speed or memory do not."""

import copy
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.train.conftest import ROOT

BATCHED = {"max_train_steps": 2, "train_batch_size": 2}
DATA = ROOT / "examples" / "dataset"
MODEL = ROOT / "examples" / "tiny-sd"

CHANGES = {
    "adaptive_noise_scale": ({"adaptive_noise_scale": 1}, {"noise_offset": 0.1}),
    "caption_dropout_every_n_epochs": ({"caption_dropout_every_n_epochs": 1}, {}),
    "caption_dropout_rate": ({"caption_dropout_rate": 1}, {}),
    "caption_prefix": ({"caption_prefix": "oil painting,"}, {}),
    "caption_separator": ({"caption_separator": " "}, {"shuffle_caption": True}),
    "caption_suffix": ({"caption_suffix": ", at night"}, {}),
    "caption_tag_dropout_rate": ({"caption_tag_dropout_rate": 0.5}, {}),
    "clip_skip": ({"clip_skip": 2}, {}),
    "color_aug": ({"color_aug": True}, {"train_batch_size": 8}),
    "debiased_estimation_loss": ({"debiased_estimation_loss": True}, {}),
    "flip_aug": ({"flip_aug": True}, {"train_batch_size": 8}),
    "fp8_base": ({"fp8_base": True}, {}),
    "fp8_base_unet": ({"fp8_base_unet": True}, {}),
    "gradient_accumulation_steps": ({"gradient_accumulation_steps": 2}, {}),
    "huber_c": ({"huber_c": 0.3}, {"loss_type": "huber"}),
    "huber_scale": ({"huber_scale": 2}, {"loss_type": "huber", "huber_schedule": "exponential"}),
    "huber_schedule": ({"huber_schedule": "constant"}, {"loss_type": "smooth_l1"}),
    "ip_noise_gamma": ({"ip_noise_gamma": 0.1}, {}),
    "ip_noise_gamma_random_strength": ({"ip_noise_gamma_random_strength": True}, {"ip_noise_gamma": 0.1}),
    "keep_tokens": ({"keep_tokens": 2}, {"shuffle_caption": True}),
    "learning_rate": ({"learning_rate": 1e-2}, {}),
    "loss_type": ({"loss_type": "l1"}, {}),
    "lr_scheduler": ({"lr_scheduler": "cosine", "lr_warmup_steps": 1}, {}),
    "max_grad_norm": ({"max_grad_norm": 1e-6}, {"optimizer_type": "SGD", "learning_rate": 1}),
    "max_timestep": ({"max_timestep": 200}, {}),
    "max_token_length": ({"max_token_length": 150}, {"caption_suffix": "red, " * 90}),
    "min_snr_gamma": ({"min_snr_gamma": 1}, {}),
    "min_timestep": ({"min_timestep": 800}, {}),
    "multires_noise_discount": ({"multires_noise_discount": 0.9}, {"multires_noise_iterations": 6}),
    "multires_noise_iterations": ({"multires_noise_iterations": 6}, {}),
    "network_alpha": ({"network_alpha": 1}, {}),
    "network_args": ({"network_args": "conv_dim=4"}, {}),
    "network_dim": ({"network_dim": 8}, {}),
    "network_dropout": ({"network_dropout": 0.5}, {}),
    "network_module": ({"network_module": "networks.loha"}, {}),
    "network_train_text_encoder_only": ({"network_train_text_encoder_only": True}, {}),
    "network_train_unet_only": ({"network_train_unet_only": True}, {}),
    "noise_offset": ({"noise_offset": 0.1}, {}),
    "noise_offset_random_strength": ({"noise_offset_random_strength": True}, {"noise_offset": 0.1}),
    "optimizer_args": ({"optimizer_args": "weight_decay=10"}, {"learning_rate": 0.1, "max_train_steps": 3}),
    "optimizer_type": ({"optimizer_type": "SGD"}, {}),
    "resolution": ({"resolution": "128,128", "enable_bucket": True}, {"enable_bucket": True}),
    "scale_v_pred_loss_like_noise_pred": ({"scale_v_pred_loss_like_noise_pred": True}, {"v_parameterization": True}),
    "scale_weight_norms": ({"scale_weight_norms": 1e-4}, {}),
    "seed": ({"seed": 2}, {}),
    "shuffle_caption": ({"shuffle_caption": True}, {}),
    "text_encoder_lr": ({"text_encoder_lr": 1e-5}, {}),
    "token_warmup_step": ({"token_warmup_step": 10}, {}),
    "token_warmup_min": ({"token_warmup_min": 3}, {"token_warmup_step": 10}),
    "train_batch_size": ({"train_batch_size": 3}, {}),
    "unet_lr": ({"unet_lr": 1e-2}, {}),
    "use_lion_optimizer": ({"use_lion_optimizer": True}, {}),
    "v_parameterization": ({"v_parameterization": True}, {}),
    "v_pred_like_loss": ({"v_pred_like_loss": 0.5}, {}),
    "weighted_captions": ({"weighted_captions": True}, {"caption_prefix": "(oil painting:1.6),"}),
    "zero_terminal_snr": ({"zero_terminal_snr": True}, {"v_parameterization": True}),
}
"""Flag -> (the settings with it, what both runs share)."""

CHANGES_NOTHING = {
    "console_log_file": {"console_log_file": "run.log"},
    "console_log_simple": {"console_log_simple": True},
    "cpu_offload_checkpointing": {"cpu_offload_checkpointing": True},
    "ddp_timeout": {"ddp_timeout": 5},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "max_data_loader_n_workers": {"max_data_loader_n_workers": 0},
    "no_half_vae": {"no_half_vae": True},
    "sdpa": {"sdpa": True},
    "vae_batch_size": {"vae_batch_size": 3, "cache_latents": True},
}
"""Flag -> the settings with it; all concern speed, memory or what is shown."""

SERVED_OTHERWISE = (
    "ddp_gradient_as_bucket_view", "ddp_static_graph", "fused_backward_pass", "highvram", "lowram", "mem_eff_attn",
    "persistent_data_loader_workers", "skip_until_initial_step", "tokenizer_cache_dir",
)


LOADED: dict[str, object] = {}


@pytest.fixture
def quick(train, monkeypatch):
    """The trainer without plots and pages and with each model loaded once, which take longer than two steps."""
    from library.train import prepare
    from library.train.telling import Telling

    load = prepare.load

    def once(config, family, device, precision):
        key = repr((config.model, precision))
        if key not in LOADED:
            LOADED[key] = load(config, family, device, precision)
        return copy.deepcopy(LOADED[key])

    monkeypatch.setattr(prepare, "load", once)
    monkeypatch.setattr(Telling, "_write", lambda self: None)
    monkeypatch.setattr("library.train.run.check_machine", lambda checked: None)
    return lambda name="lora", *more, **flags: train(name, *more, **(BATCHED | flags))


LOSSES: dict[str, list[float]] = {}


@pytest.fixture
def plain(quick):
    """Losses and weights of a run without the flag in question, kept for the next test that needs the same."""

    def of(**shared):
        key = repr(sorted(shared.items()))
        if key not in LOSSES:
            run = quick("plain", **shared)
            assert run.code == 0
            LOSSES[key] = [*run.losses, *(float(tensor.float().sum()) for tensor in run.tensors().values())]
        return LOSSES[key]

    return of


def figures(run):
    return [*run.losses, *(float(tensor.float().sum()) for tensor in run.tensors().values())]


@pytest.mark.parametrize("flag", CHANGES)
def test_a_flag_changes_what_is_trained(flag, quick, plain):
    settings, shared = CHANGES[flag]
    expected = plain(**shared)
    run = quick(**(shared | settings))
    assert run.code == 0
    assert figures(run) != expected


@pytest.mark.parametrize("flag", CHANGES_NOTHING)
def test_a_flag_of_speed_or_memory_trains_the_same(flag, quick, plain):
    settings = CHANGES_NOTHING[flag]
    expected = plain(**({"cache_latents": True} if "cache_latents" in settings else {}))
    run = quick(**settings)
    assert run.code == 0
    assert figures(run) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_what_is_served_otherwise_trains_the_same_and_says_so(quick, plain, capsys):
    expected = plain()
    capsys.readouterr()
    run = quick(**dict.fromkeys(SERVED_OTHERWISE, True) | {"tokenizer_cache_dir": "tokenizers"})
    shown = capsys.readouterr().err
    assert figures(run) == expected
    assert [flag for flag in SERVED_OTHERWISE if f"--{flag}" not in shown] == []


def test_a_compiled_model_trains_the_same(quick, plain):
    expected = plain()
    run = quick(torch_compile=True, dynamo_backend="eager")
    torch._dynamo.reset()
    assert run.code == 0
    assert figures(run) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_weights_are_kept_in_8_bits_and_widened_when_used():
    from library.train.eight_bit import keep_in_8_bits

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 4)).requires_grad_(False)
    exact, x = [p.clone() for p in model.parameters()], torch.randn(3, 8, requires_grad=True)
    assert keep_in_8_bits(model) == 2
    stored = [p for p in model.parameters() if p.dtype is torch.float8_e4m3fn]
    assert len(stored) == 2 and sum(p.numel() for p in stored) == 96
    assert torch.allclose(model[0].weight, exact[0], rtol=2**-4, atol=2**-9) and not torch.equal(model[0].weight, exact[0])
    model(x).sum().backward()
    assert x.grad.abs().max() > 0 and torch.equal(model[1].weight, exact[2])


def test_full_fp16_gradients_are_unscaled():
    from library.train.prepare import allow_half_gradients

    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    allow_half_gradients(scaler)
    scaler.scale((weight * 2).sum()).backward()
    scaler.unscale_(optimizer)
    assert weight.grad.tolist() == [2, 2]


@pytest.mark.parametrize(("asked", "vae", "adapter"), [
    ({}, torch.float16, torch.float32), ({"no_half_vae": True}, torch.float32, torch.float32),
    ({"full_fp16": True}, torch.float16, torch.float16)])
def test_precision_follows_its_flags_where_there_is_a_gpu(asked, vae, adapter):
    from library.config.run_config import MachineConfig
    from library.train.session import decide_precision

    found = decide_precision(MachineConfig(mixed_precision="fp16", **asked), has_accelerator=True)
    assert (found.autocast, found.base, found.vae, found.adapter) == ("fp16", torch.float16, vae, adapter)
    alone = decide_precision(MachineConfig(mixed_precision="fp16", **asked), has_accelerator=False)
    assert (alone.autocast, alone.base, alone.adapter) == ("no", torch.float32, torch.float32)


@pytest.mark.parametrize("place", [{"initial_step": 160}, {"initial_epoch": 2}])
def test_a_run_may_begin_at_a_later_step_or_epoch(quick, place):
    whole = quick("whole", train_batch_size=80, max_train_steps=3, lr_scheduler="constant", learning_rate=1e-12)
    late = quick("late", train_batch_size=80, max_train_steps=3, learning_rate=1e-12,
                 **({"initial_step": 2} if "initial_step" in place else place))
    assert late.losses == pytest.approx(whole.losses[2:], rel=1e-6)


def test_beginning_after_the_end_is_refused(quick, capsys):
    assert quick(initial_epoch=9).code == 1
    assert "--initial_epoch" in capsys.readouterr().err


def test_a_lora_goes_on_from_another_with_its_rank(quick):
    first = quick("first", network_dim=3)
    second = quick("second", network_dim=None, network_weights=first.folder / "first.safetensors", dim_from_weights=True)
    assert second.code == 0
    assert {t.shape[0] for k, t in second.tensors().items() if k.endswith("lora_down.weight")} == {3}
    assert second.losses[0] < first.losses[0]


def test_base_weights_are_merged_at_their_strength(quick, plain):
    first = quick("first", learning_rate=1e-2)
    file = first.folder / "first.safetensors"
    strong, none = quick("strong", base_weights=file), quick("none", base_weights=file, base_weights_multiplier=0)
    assert strong.losses[0] < plain()[0]
    assert none.losses[0] == plain()[0]


def test_what_is_cached_is_encoded_by_the_model_with_its_base_weights(quick):
    file = quick("first", learning_rate=1e-2).folder / "first.safetensors"
    shared = {"base_weights": file, "network_train_unet_only": True}
    cached = quick("cached", script="sdxl_train_network.py", cache_text_encoder_outputs=True, **shared)
    assert cached.losses[0] == quick("fresh", **shared).losses[0]


def test_caches_on_disk_notice_another_model(quick, tmp_path):
    pictures = tmp_path / "pictures"
    shutil.copytree(DATA, pictures)
    shared = {"train_data_dir": pictures, "cache_latents_to_disk": True}
    assert quick("first", **shared).code == 0
    files = {file: file.stat().st_mtime_ns for file in pictures.rglob("*.npz")}
    assert files and quick("again", **shared).code == 0
    assert files == {file: file.stat().st_mtime_ns for file in pictures.rglob("*.npz")}
    other = tmp_path / "other"
    shutil.copytree(MODEL, other)
    weights = load_file(other / "vae" / "diffusion_pytorch_model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, other / "vae" / "diffusion_pytorch_model.safetensors")
    assert quick("other", pretrained_model_name_or_path=other, **shared).code == 0
    assert all(file.stat().st_mtime_ns != before for file, before in files.items())


def test_regularisation_pictures_count_with_their_weight(quick, tmp_path):
    reg = tmp_path / "reg" / "1_thing"
    reg.mkdir(parents=True)
    for picture in sorted(DATA.glob("*/*.png"))[:2]:
        shutil.copy(picture, reg)
    heavy = quick("heavy", reg_data_dir=reg.parent)
    light = quick("light", reg_data_dir=reg.parent, prior_loss_weight=0)
    assert heavy.code == light.code == 0 and sum(light.losses) < sum(heavy.losses)


def test_debug_dataset_shows_and_writes_what_would_be_trained_on(quick, capsys):
    run = quick(debug_dataset=True, train_batch_size=80, caption_prefix="zzz", console_log_level="ERROR")
    shown = capsys.readouterr().out
    assert run.code == 0 and "lora.safetensors" not in run.files
    assert shown.count("'zzz ") == 160 and "batch 2: 80 x 64x64" in shown
    pictures = sorted((run.folder / "lora-debug").iterdir())
    assert len(pictures) == 160
    with Image.open(pictures[0]) as image:
        assert image.size == (64, 64)


def test_truncated_pictures_are_refused_or_taken(quick, tmp_path, capsys):
    folder = tmp_path / "data" / "1_cut"
    folder.mkdir(parents=True)
    Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "a.jpg", quality=95)
    data = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(data[: len(data) * 2 // 3])
    settings = {"train_data_dir": folder.parent, "train_batch_size": 1, "max_train_steps": 1}
    assert quick("refused", **settings).code == 1 and "a.jpg" in capsys.readouterr().err
    assert quick("taken", allow_truncated_images=True, **settings).code == 0
    assert quick("refused", **settings).code == 1


def test_the_tracker_file_reaches_tensorboard(quick, tmp_path, monkeypatch):
    from torch.utils import tensorboard

    seen = []
    real = tensorboard.SummaryWriter
    monkeypatch.setattr(tensorboard, "SummaryWriter", lambda *given, **more: seen.append(more) or real(*given, **more))
    (tmp_path / "tracker.toml").write_text("[tensorboard]\nflush_secs = 3\n", encoding="utf-8")
    run = quick(logging_dir=tmp_path / "logs", log_prefix="p-", log_tracker_config=tmp_path / "tracker.toml",
                log_tracker_name="mine", log_config=True)
    assert run.code == 0 and seen == [{"flush_secs": 3}]
    (folder,) = (tmp_path / "logs").iterdir()
    assert folder.name.startswith("p-") and (folder / "mine").is_dir()


def test_typed_tokens_reach_the_clients_and_nothing_else(quick, monkeypatch):
    import os

    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "former")
    run = quick(wandb_api_key=" k" * 3)
    assert run.code == 0 and os.environ["WANDB_API_KEY"] == "k k k" and os.environ["HF_TOKEN"] == "former"


def test_a_state_on_the_hub_is_downloaded_and_resumed(quick, monkeypatch, tmp_path):
    import huggingface_hub

    whole = quick("whole", max_train_steps=4, save_state=True, save_every_n_steps=2)
    shutil.copytree(whole.folder / "whole-step00000002-state", tmp_path / "hub" / "runs" / "whole-state")
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download",
                        lambda repo, **more: asked.append((repo, more)) or str(tmp_path / "hub"))
    run = quick("again", max_train_steps=4, resume="me/lora/runs/whole-state:main", resume_from_huggingface=True)
    assert run.losses == whole.losses[2:]
    assert asked[0][0] == "me/lora" and asked[0][1]["revision"] == "main"


def test_files_and_states_are_uploaded(quick, monkeypatch):
    import huggingface_hub

    sent = []

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo, **more):
            sent.append(("made", repo, more["private"]))

        def upload_file(self, path_or_fileobj, **more):
            sent.append(("file", more["path_in_repo"]))

        def upload_folder(self, folder_path, **more):
            sent.append(("folder", more["path_in_repo"]))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr("library.preflight.registry.run", lambda context, levels=(): [])
    run = quick(huggingface_repo_id="me/lora", huggingface_path_in_repo="runs", save_state=True, async_upload=True,
                save_state_to_huggingface=True, huggingface_repo_visibility="public")
    assert run.code == 0
    assert sent == [("made", "me/lora", False), ("file", "runs/lora.safetensors"), ("folder", "runs/lora-state")]


def test_any_script_trains_what_the_base_model_is(train, capsys, monkeypatch):
    from library.train.run import main
    from library.train.telling import Telling

    monkeypatch.setattr(Telling, "_write", lambda self: None)
    monkeypatch.setattr("library.train.run.main", lambda argv: main(argv, "sdxl_train_network.py"))
    argv = [f"--pretrained_model_name_or_path={MODEL}", f"--train_data_dir={DATA}", "--output_dir=out", "--resolution=64",
            "--caption_extension=.txt", "--max_train_steps=1", "--network_dim=2"]
    assert main(argv, "sdxl_train_network.py") == 0
    assert "train_network.py has the flags" in " ".join(capsys.readouterr().err.replace("|", " ").split())


def test_the_flag_of_one_script_that_is_served_otherwise_is_announced():
    from library.config.rules import judge
    from library.flags import parse

    (found,) = (one for one in judge(parse(["--disable_mmap_load_safetensors"], "sdxl_train_network.py"))
                if one.where == "--disable_mmap_load_safetensors")
    assert found.severity == "note"


def test_deepspeed_gets_its_own_settings():
    from library.config.sections import machine
    from library.flags import parse

    found = machine(parse(["--deepspeed", "--zero_stage=3", "--offload_param_device=cpu", "--zero3_init_flag"])).deepspeed
    assert found == {"zero_stage": 3, "offload_optimizer_device": None, "offload_optimizer_nvme_path": None,
                     "offload_param_device": "cpu", "offload_param_nvme_path": None, "zero3_init_flag": True,
                     "zero3_save_16bit_model": False, "fp16_master_weights_and_gradients": False}
    assert machine(parse([])).deepspeed is None


def test_masks_and_transparency_weigh_the_loss(quick, tmp_path):
    data, masks, clear = (tmp_path / name for name in ("data/1_a", "masks", "clear/1_a"))
    for folder in (data, masks, clear):
        folder.mkdir(parents=True)
    for number in range(2):
        image = Image.effect_noise((64, 64), 90).convert("RGB")
        mask = Image.new("L", (64, 64), 255)
        mask.paste(0, (0, 0, 32, 64))
        image.save(data / f"{number}.png")
        mask.save(masks / f"{number}.png")
        image.putalpha(mask)
        image.save(clear / f"{number}.png")
    whole = quick("whole", train_data_dir=data.parent)
    masked = quick("masked", train_data_dir=data.parent, masked_loss=True, conditioning_data_dir=masks)
    alpha = quick("alpha", train_data_dir=clear.parent, alpha_mask=True)
    assert masked.code == alpha.code == 0
    assert masked.losses == pytest.approx(alpha.losses, rel=1e-6)
    assert all(half < one for half, one in zip(masked.losses, whole.losses, strict=True))


def test_samples_are_drawn_when_they_are_asked_for(quick, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat --w 64 --h 64 --s 1 --d 5\n", encoding="utf-8")
    settings = {"sample_prompts": tmp_path / "prompts.txt", "train_batch_size": 80}
    steps = quick("steps", sample_at_first=True, sample_every_n_steps=1, **settings)
    epochs = quick("epochs", sample_every_n_epochs=1, **settings)
    names = sorted(path.name for path in (steps.folder / "sample").iterdir())
    assert [name.split("_")[1] for name in names if name.startswith("steps")] == ["000001", "000002", "e000000"]
    assert [name.split("_")[1] for name in names if name.startswith("epochs")] == ["e000001"] and epochs.code == 0


@pytest.mark.parametrize("off", ["text_encoder_lr", "unet_lr"])
def test_what_trains_at_no_rate_has_no_part_in_the_gradients_norm(quick, off):
    """Gradients that no optimizer clears would add up from step to step, and clipping would hold the others back."""
    shared = {"max_train_steps": 6, "optimizer_type": "SGD", "learning_rate": 1, "max_grad_norm": 1e-3, "network_alpha": 400}
    only = "network_train_unet_only" if off == "text_encoder_lr" else "network_train_text_encoder_only"
    alone, at_nothing = quick("alone", **shared, **{only: True}), quick("nothing", **shared, **{off: 0})
    ours, theirs = alone.tensors(), at_nothing.tensors()
    assert all(torch.allclose(ours[key], theirs[key], rtol=1e-5, atol=1e-7) for key in ours)
    assert all(not tensor.any() for key, tensor in theirs.items() if key not in ours and "lora_up" in key)
