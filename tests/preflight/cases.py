"""For every check one context in which it speaks. The good context of ``World`` is the one in which it is silent."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from library.preflight import probes
from library.preflight.machine import GIB, TESTED_PACKAGES, Gpu, GpuReport, TorchBuild
from library.preflight.registry import Context

from .world import LORA, SD1, World, write_diffusers, write_folder, write_picture, write_safetensors

Case = Callable[[World], Context]
NO_GPU = {"graphics": GpuReport(), "driver_names": ()}
TOKEN = "hf_" + "a1B2" * 9
"""Shaped like a token; none was ever issued like this."""


def without(*names: str, **versions: str) -> dict[str, Any]:
    """A machine's packages without some, and with other versions of some."""
    packages = {k: v for k, v in TESTED_PACKAGES.items() if k not in names}
    return {"packages": packages | {k.replace("_", "-"): v for k, v in versions.items()}}


def card(
    name: str = "NVIDIA GeForce RTX 3060",
    capability: tuple[int, int] = (8, 6),
    free: float = 11.4,
    total: float = 12.0,
    bf16: bool = True,
) -> dict[str, Any]:
    """A machine with another graphics card; memory in GiB."""
    archs = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_120", "compute_120")
    return {"graphics": GpuReport((Gpu(name, capability, int(total * GIB), int(free * GIB), bf16),), archs)}


def put(path: Path, data: bytes | str) -> Path:
    """Write a small file and give its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return path


def model(w: World, **shapes: tuple[int, ...]) -> Path:
    """A Stable Diffusion 1.x file with some shapes replaced (keys: unet.., by their ends)."""
    changed = dict(SD1)
    for end, shape in shapes.items():
        changed[next(n for n in SD1 if n.endswith(end.replace("__", ".")))] = shape
    return write_safetensors(w.root / "models" / "other.safetensors", changed)


def state(w: World, **record: Any) -> Path:
    """A whole state folder."""
    folder = w.root / "out" / "mine-state"
    folder.mkdir(parents=True)
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data.pkl", b"x")
    put(folder / "train_state.json", json.dumps({"current_step": 10, "current_epoch": 1, **record}))
    return folder


def slider(w: World, one: float = 0.5, other: float | None = -0.5, second: int = 12, **flags: Any) -> Context:
    """A slider run over two folders."""
    write_folder(w.root / "side", "a", 12)
    write_folder(w.root / "side", "b", second)
    lines = [
        f"[[datasets]]\nresolution = 64\nenable_bucket = true\nmin_bucket_reso = 64\nmax_bucket_reso = 128\n"
        f"caption_extension = '.txt'\n[[datasets.subsets]]\nimage_dir = '{w.root / 'side' / 'a'}'\nslider_strength = {one}\n"
        f"[[datasets.subsets]]\nimage_dir = '{w.root / 'side' / 'b'}'\n"
    ]
    lines += [f"slider_strength = {other}\n"] if other is not None else []
    path = put(w.root / "slider.toml", "".join(lines))
    return w.full(
        **{
            "dataset_config": str(path),
            "train_data_dir": None,
            "text_encoder_lr": None,
            "network_train_unet_only": True,
            **flags,
        }
    )


def bmp_folder(w: World, *files: tuple[str, bytes]) -> Context:
    """The good data set with some files more in its folder."""
    for name, data in files:
        put(w.data / "10_zob" / name, data)
    return w.full()


def captions(w: World, text: Callable[[int], str], **flags: Any) -> Context:
    """The good data set with other captions."""
    for n, path in enumerate(sorted((w.data / "10_zob").glob("*.txt"))):
        path.write_text(text(n), encoding="utf-8")
    return w.full(**flags)


def picture(w: World, name: str, mode: str = "RGB", size: tuple[int, int] = (64, 64), **save: Any) -> Context:
    """The good data set with one odd picture."""
    from PIL import Image

    Image.new(mode, size).save(w.data / "10_zob" / name, **save)
    put(w.data / "10_zob" / f"{Path(name).stem}.txt", "zob, odd")
    return w.full()


def turned(w: World) -> Context:
    """The good data set with a photo that lies on its side."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(w, "photo.jpg", exif=exif)


def diffusers(w: World, remove: str = "", add: str = "", give: str = "") -> Context:
    """A diffusers folder with a file less or more, given as a whole or by a part."""
    root = write_diffusers(w.root / "diffusers")
    if remove:
        (root / remove).unlink()
    if add:
        put(root / add, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9")
    return w.context(pretrained_model_name_or_path=str(root / give) if give else str(root))


def big_picture(w: World, **flags: Any) -> Context:
    """The good data set with one picture of another size, without buckets."""
    write_picture(w.data / "10_zob" / "big.png", (200, 100))
    return w.full(enable_bucket=None, cache_latents=None, plan=False, **flags)


def lora(w: World) -> Path:
    return write_safetensors(w.root / "old.safetensors", LORA)


def trial_says(context: Context, words: str) -> Context:
    """Let every trial in a Python of its own end with ``words``; undone by the test's monkeypatch of ``probes.trial``."""
    probes.trial = lambda code, seconds=60: words  # type: ignore[assignment]
    return context


def hub_file(w: World) -> Context:
    """A hub id with a half download in the cache."""
    put(w.root / "hub" / "models--some--model" / "blobs" / "abc.incomplete", b"half")
    return w.context(pretrained_model_name_or_path="some/model", machine={"env": {"HF_HUB_CACHE": str(w.root / "hub")}})


def full_flags(w: World, **flags: Any) -> Context:
    """A resolved run whose flags are then changed behind resolve's back (it would have refused them)."""
    context = w.full()
    return replace(context, flags={**context.flags, **flags})


RULED: dict[str, Case] = {
    "prompts_file_missing": lambda w: w.context("train_leco.py", train_data_dir=None),
    "bucket_steps": lambda w: w.context(bucket_reso_steps=0),
    "value_range": lambda w: w.context(network_dim=0),
    "batch_size": lambda w: w.context(train_batch_size=0),
    "option_needs": lambda w: w.context(full_bf16=True),
    "latents_subset": lambda w: w.context(
        train_data_dir=None,
        dataset_config=str(put(w.root / "d.toml", "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'data'\nrandom_crop = true")),
    ),
    "zero_snr": lambda w: w.context(zero_terminal_snr=True),
    "ema_decay": lambda w: w.context(ema_decay=1.5),
    "run_position": lambda w: w.context(initial_step=2000),
    "text_slider": lambda w: w.context(text_slider_states="leco"),
    "length_default": lambda w: w.context(max_train_steps=None),
    "memory_savers": lambda w: w.context(base_quantization="nf4", fp8_base=True),
    "not_served": lambda w: w.context(mem_eff_attn=True),
}
WORDS: dict[str, Case] = {
    **RULED,
    "no_effect": lambda w: w.context(save_last_n_steps=10),
    "alpha_zero": lambda w: w.context(network_alpha=0.0),
    "warmup_none": lambda w: w.context(lr_scheduler="constant_with_warmup"),
    "model_missing": lambda w: w.context(pretrained_model_name_or_path=None),
    "output_dir_missing": lambda w: w.context(output_dir=None),
    "data_missing": lambda w: w.context(train_data_dir=None),
    "network_module_missing": lambda w: w.context(network_module=None),
    "network_module_unknown": lambda w: w.context(network_module="networks.lroa", machine={"has_module": lambda n: False}),
    "resolution_missing": lambda w: w.context(resolution=None),
    "resolution_form": lambda w: w.context(resolution="512;512"),
    "path_quotes": lambda w: w.context(train_data_dir="'data'"),
    "path_swallows": lambda w: w.context(output_dir='C:\\out" --network_dim=4'),
    "path_control_characters": lambda w: w.context(train_data_dir="C:\new"),
    "output_name_bad": lambda w: w.context(output_name="a:b"),
    "caption_extension_dot": lambda w: w.context(caption_extension="txt"),
    "secret_typed": lambda w: w.context(huggingface_token=TOKEN),
    "secret_in_text": lambda w: w.context(training_comment=f"mine {TOKEN}"),
    "unset_placeholder": lambda w: w.context(train_data_dir="<path to your images>"),
    "dataset_config_wins": lambda w: w.context(dataset_config="a.toml"),
    "both_only": lambda w: w.context(network_train_unet_only=True, network_train_text_encoder_only=True),
    "nothing_trained": lambda w: w.context(unet_lr=0.0, text_encoder_lr=[0.0]),
    "bucket_range": lambda w: w.context(resolution="768,1152", max_bucket_reso=1024),
    "schedule_warmup": lambda w: w.context(lr_scheduler="constant", lr_warmup_steps=100),
    "schedule_adafactor": lambda w: w.context(lr_scheduler="adafactor"),
    "schedule_unknown": lambda w: w.context(lr_scheduler="cosinee"),
    "optimizer_unknown": lambda w: w.context(optimizer_type="AdmW"),
    "optimizer_twice": lambda w: w.context(optimizer_type="AdamW", use_8bit_adam=True),
    "optimizer_package": lambda w: w.context(optimizer_type="Prodigy", machine=without("prodigyopt")),
    "args_form": lambda w: w.context(network_args=["conv_dim", "4"]),
    "cached_text_shuffle": lambda w: w.context("sdxl_train_network.py", cache_text_encoder_outputs=True),
    "cached_text_training": lambda w: w.context("sdxl_train_network.py", cache_text_encoder_outputs=True),
    "latents_random": lambda w: w.context(color_aug=True),
    "timestep_range": lambda w: w.context(min_timestep=900, max_timestep=100),
    "base_weights_count": lambda w: w.context(base_weights=["a"], base_weights_multiplier=[1.0, 0.5]),
    "log_with": lambda w: w.context(log_with="tensorboard"),
    "tensorboard_missing": lambda w: w.context(logging_dir="logs", machine=without("tensorboard")),
    "attention_twice": lambda w: w.context(xformers=True, sdpa=True),
    "length_twice": lambda w: w.context(max_train_epochs=3),
    "save_never": lambda w: w.context(save_every_n_steps=2000),
    "clip_skip_range": lambda w: w.context(clip_skip=20),
    "rate_default": lambda w: w.context(learning_rate=None, text_encoder_lr=None),
    "rate_high": lambda w: w.context(learning_rate=0.01),
    "rate_alpha": lambda w: w.context(learning_rate=1e-3, network_dim=128, network_alpha=128.0),
    "rate_low": lambda w: w.context(learning_rate=1e-6, text_encoder_lr=[1e-6]),
    "effect_small": lambda w: w.context(network_dim=128, network_alpha=1.0),
    "alpha_over_dim": lambda w: w.context(network_alpha=16.0),
    "alpha_default": lambda w: w.context(network_alpha=None, network_dim=32),
    "dim_large": lambda w: w.context(network_dim=512, network_alpha=256.0),
    "one_rate": lambda w: w.context(optimizer_type="Prodigy", learning_rate=1.0, text_encoder_lr=[0.5]),
    "own_rate": lambda w: w.context(optimizer_type="Prodigy", text_encoder_lr=None),
    "full_fp16_optimizer": lambda w: w.context(full_fp16=True),
    "noise_offset_high": lambda w: w.context(noise_offset=0.5),
    "snr_twice": lambda w: w.context(min_snr_gamma=5.0, debiased_estimation_loss=True),
    "warmup_long": lambda w: w.context(lr_scheduler="cosine", lr_warmup_steps=900),
    "saved_as_pickle": lambda w: w.context(save_model_as="ckpt"),
    "save_precision_low": lambda w: w.context(save_precision="bf16"),
    "blocks_too_many": lambda w: w.full("flux_train_network.py", family="flux1", plan=False, blocks_to_swap=58),
    "half_vae": lambda w: w.full("sdxl_train_network.py", family="sdxl", plan=False),
    "checkpointing_advice": lambda w: w.full(
        train_batch_size=8, gradient_checkpointing=None, resolution="512,512", max_bucket_reso=1024
    ),
    "python_version": lambda w: w.context(machine={"python": (3, 10, 6)}),
    "packages_missing": lambda w: w.context(machine=without("toml", "safetensors")),
    "versions_tested": lambda w: w.context(machine=without(diffusers="0.30.0")),
    "versions_disagree": lambda w: w.context(
        machine={"requires": lambda name: ("huggingface-hub<2.0",) if name == "transformers" else ()}
    ),
    "numpy_two": lambda w: w.context(machine=without(opencv_python="4.8.0.76")),
    "protobuf_new": lambda w: w.context(machine=without(tensorboard="2.9.1")),
    "wrong_library": lambda w: w.context(machine={"library_path": w.root / "kohya" / "library"}),
    "venv_asleep": lambda w: (
        put(w.root / "venv" / "pyvenv.cfg", ""),
        w.context(machine={"in_venv": False, "repository": w.root}),
    )[1],
    "bitsandbytes_old": lambda w: w.context(
        optimizer_type="AdamW8bit", machine={"system": "Windows", **without(bitsandbytes="0.41.1")}
    ),
    "xformers_pair": lambda w: w.context(xformers=True, machine=without("xformers")),
    "triton_missing": lambda w: w.context(torch_compile=True, machine=without("triton")),
    "deepspeed_missing": lambda w: w.context(deepspeed=True),
    "visual_c_runtime": lambda w: w.context(machine={"system": "Windows", "system_files": lambda n: n != "msvcp140.dll"}),
    "store_python": lambda w: w.context(machine={"system": "Windows", "executable": "C:\\Users\\a\\WindowsApps\\python.exe"}),
    "token_shape": lambda w: w.context(pretrained_model_name_or_path="some/model", machine={"env": {"HF_TOKEN": "hf_abc..."}}),
    "token_sources": lambda w: w.context(
        pretrained_model_name_or_path="some/model", machine={"env": {"HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN + "x"}}
    ),
    "model_moved": lambda w: w.context(pretrained_model_name_or_path="runwayml/stable-diffusion-v1-5"),
    "link_key": lambda w: w.context(pretrained_model_name_or_path="https://civitai.com/api/download/models/1?token=abcdef"),
}

FILES: dict[str, Case] = {
    "hub_shadowed": lambda w: (
        (w.root / "some" / "model").mkdir(parents=True),
        w.context(pretrained_model_name_or_path="some/model"),
    )[1],
    "hub_half_download": hub_file,
    "output_dir_unwritable": lambda w: w.context(output_dir=str(w.model)),
    "output_exists": lambda w: (put(w.root / "out" / "mine-000010.safetensors", b"x"), w.context())[1],
    "output_in_data": lambda w: w.context(output_dir=str(w.data / "out")),
    "text_file_missing": lambda w: w.context(sample_prompts="prompts.txt"),
    "sample_prompts_empty": lambda w: w.context(sample_prompts=str(put(w.root / "p.txt", "# nothing\n"))),
    "reg_inside_train": lambda w: w.context(reg_data_dir=str(w.data)),
    "folder_missing": lambda w: w.context(train_data_dir=str(w.root / "dta")),
    "slow_drive": lambda w: w.context(machine={"is_network_drive": lambda p: True}),
    "letters_in_path": lambda w: w.context(
        optimizer_type="AdamW8bit", machine={"system": "Windows", "executable": "C:\\Users\\Maroš\\python.exe"}
    ),
    "path_too_long": lambda w: w.context(output_dir="C:\\" + "a" * 240, machine={"system": "Windows"}),
    "adapter_file_missing": lambda w: w.context(network_weights=str(w.root / "none.safetensors")),
    "model_not_found": lambda w: w.context(pretrained_model_name_or_path=str(w.root / "models" / "bse.safetensors")),
    "model_damaged": lambda w: w.context(
        pretrained_model_name_or_path=str(write_safetensors(w.root / "half.safetensors", SD1, missing=100))
    ),
    "tokenizer_missing": lambda w: w.context(pretrained_model_name_or_path=str(
        write_safetensors(w.root / "wan.safetensors", {"head.modulation": (1, 2, 4), "time_projection.1.weight": (4, 4),
                                                       "patch_embedding.weight": (4, 16, 1, 2, 2)}))),
    "model_ending": lambda w: w.context(pretrained_model_name_or_path=str(pickled(w.root / "renamed.safetensors"))),
    "model_kind": lambda w: w.context(pretrained_model_name_or_path=str(lora(w))),
    "model_folder": lambda w: w.context(pretrained_model_name_or_path=str(w.root / "models")),
    "model_folder_damaged": lambda w: diffusers(w, add="unet/more.safetensors"),
    "model_inpainting": lambda w: w.context(
        pretrained_model_name_or_path=str(model(w, input_blocks__0__0__weight=(320, 9, 3, 3)))
    ),
    "model_script": lambda w: w.context("sdxl_train_network.py"),
    "model_version": lambda w: w.context(v2=True),
    "model_prediction": lambda w: w.context(
        pretrained_model_name_or_path=str(write_safetensors(w.root / "noob-vpred.safetensors", SD1))
    ),
    "model_scaled": lambda w: w.context(
        pretrained_model_name_or_path=str(
            write_safetensors(w.root / "fp8.safetensors", {**SD1, "model.diffusion_model.out.scale_weight": (1,)})
        )
    ),
    "vae_file": lambda w: w.context(vae=str(lora(w))),
    "model_incomplete": lambda w: w.context(
        pretrained_model_name_or_path=str(
            write_safetensors(w.root / "unet.safetensors", {k: v for k, v in SD1.items() if k.startswith("model.")})
        )
    ),
    "state_missing": lambda w: w.context(resume=str(w.root / "out" / "none-state")),
    "state_broken": lambda w: (
        put(state(w) / "optimizer.bin", b"PK\x03\x04half"),
        w.context(resume=str(w.root / "out" / "mine-state")),
    )[1],
    "state_differs": lambda w: w.context(resume=str(state(w, run={"network_dim": 32}))),
    "resume_position": lambda w: w.context(resume=str(state(w))),
    "rank_differs": lambda w: w.context(network_weights=str(lora(w)), network_dim=64),
    "slider_one_sign": lambda w: slider(w, 0.5, 1.0),
    "slider_text": lambda w: slider(w, text_encoder_lr=[1e-4], network_train_unet_only=None),
    "slider_steps": lambda w: slider(w, gradient_accumulation_steps=3),
    "image_sizes": lambda w: big_picture(w),
}

DATA: dict[str, Case] = {
    "scan": lambda w: bmp_folder(w, ("bad.png", b"<html>no picture</html>")),
    "plan_steps": lambda w: w.full(),
    "data_few": lambda w: ([p.unlink() for p in sorted((w.data / "10_zob").glob("*.png"))[3:]], w.full())[1],
    "steps_many": lambda w: w.full(max_train_steps=9000),
    "keep_tokens_long": lambda w: captions(w, lambda n: "zob, red", keep_tokens=2),
    "trigger_missing": lambda w: captions(w, lambda n: f"tag {n}, zob, red"),
    "captions_same": lambda w: captions(w, lambda n: "zob, red"),
    "captions_long": lambda w: captions(w, lambda n: "zob, " + "word, " * 60),
    "captions_mojibake": lambda w: captions(w, lambda n: "zob, 縺ゅ＞, red"),
    "caption_secret": lambda w: captions(w, lambda n: f"zob, {TOKEN}"),
    "captions_orphan": lambda w: bmp_folder(w, *((f"lost{n}.txt", b"x") for n in range(4))),
    "bucket_small": lambda w: (
        write_picture(w.data / "10_zob" / "wide.png", (256, 64)),
        w.full(train_batch_size=16, resolution="128,128", max_bucket_reso=256),
    )[1],
    "images_small": lambda w: (write_picture(w.data / "10_zob" / "dot.png", (24, 24)), w.full())[1],
    "image_cut_off": lambda w: cut(w),
    "reg_unused": lambda w: (
        write_folder(w.root / "reg", "1_class", 130, captions=False),
        w.full(reg_data_dir=str(w.root / "reg")),
    )[1],
    "slider_unequal": lambda w: slider(w, second=3),
    "image_turned": turned,
    "image_transparent": lambda w: picture(w, "clear.png", "RGBA"),
    "image_colours": lambda w: picture(w, "print.jpg", "CMYK"),
    "image_types": lambda w: picture(w, "old.gif", "P"),
}


def pickled(path: Path) -> Path:
    """A checkpoint as torch writes it: a zip with a pickle of tensors."""
    import torch

    torch.save({name: torch.zeros(shape) for name, shape in {**SD1, "x": (1,)}.items()}, path)
    return path


def cut(w: World) -> Context:
    """The good data set with one picture that lacks its last bytes."""
    path = w.data / "10_zob" / "000.png"
    path.write_bytes(path.read_bytes()[:-20])
    return w.full()


MACHINE: dict[str, Case] = {
    "torch_broken": lambda w: w.context(machine={"graphics": GpuReport(fault="OSError: [WinError 126] fbgemm.dll")}),
    "no_gpu": lambda w: w.context(machine=NO_GPU),
    "gpu_unsupported": lambda w: w.context(machine=card("NVIDIA GeForce GTX 1060", (6, 1))),
    "bf16_unsupported": lambda w: w.context(mixed_precision="bf16", machine=card("Tesla T4", (7, 5), bf16=False)),
    "fp16_faulty": lambda w: w.context(machine=card("NVIDIA GeForce GTX 1660", (7, 5), bf16=False)),
    "precision_none": lambda w: w.context(mixed_precision="no"),
    "gpu_memory": lambda w: w.context(
        pretrained_model_name_or_path="some/model", resolution="1024,1024", train_batch_size=8, gradient_checkpointing=False
    ),
    "gpu_busy": lambda w: w.context(machine=card(free=4.0)),
    "memory_small": lambda w: w.context(machine={"memory_free": GIB // 2}),
    "disk_small": lambda w: w.context(save_every_n_steps=100, save_state=True, machine={"disk_free": lambda p: 10_000_000}),
    "saves_many": lambda w: w.context(save_every_n_steps=10, save_state=True),
    "optimizer_needs_gpu": lambda w: w.context(optimizer_type="AdamW8bit", machine=NO_GPU),
    "accelerate_cpu": lambda w: w.context(machine={"env": {"ACCELERATE_USE_CPU": "true"}}),
    "accelerate_precision": lambda w: w.context(machine={"env": {"ACCELERATE_MIXED_PRECISION": "bf16"}}),
    "accelerate_kind": lambda w: w.context(machine={"accelerate_config": {"distributed_type": "TPU"}}),
    "processes_many": lambda w: w.context(machine={"env": {"WORLD_SIZE": "2"}}),
    "cache_drive": lambda w: w.context(pretrained_model_name_or_path="some/model", machine={"disk_free": lambda p: GIB}),
    "windows_many_gpus": lambda w: w.context(machine={"system": "Windows", "env": {"WORLD_SIZE": "2"}}),
}

PROBES: dict[str, Case] = {
    "optimizer_probe": lambda w: bad_schedule(w),
    "module_probe": lambda w: w.context(network_module="json"),
    "xformers_probe": lambda w: trial_says(w.context(xformers=True), "NotImplementedError: No operator found"),
    "bitsandbytes_probe": lambda w: trial_says(w.context(optimizer_type="AdamW8bit"), "CUDA Setup failed"),
    "tensorboard_probe": lambda w: trial_says(
        w.context(logging_dir="logs", machine=without(tensorflow="2.9")), "no attribute 'io'"
    ),
    "half_probe": lambda w: trial_says(w.context(machine=card("NVIDIA GeForce GTX 1650", (7, 5))), "NaN"),
}


def bad_schedule(w: World) -> Context:
    """A resolved run with an argument that its optimizer does not have."""
    context = w.full()
    assert context.config is not None
    return replace(context, config=replace(context.config, optimizer=replace(context.config.optimizer, args={"betaz": 1})))


CPU_TORCH = TorchBuild("2.13.0+cpu", None, None)
CASES: dict[str, Case] = {**WORDS, **FILES, **DATA, **MACHINE, **PROBES}
ELSEWHERE = {
    "hub_token_refused",
    "hub_gated",
    "hub_not_found",
    "hub_unreachable",
    "hub_layout",
    "upload_token",
    "tokenizer_probe",
    "layers_probe",
    "gpu_probe",
}
"""Checks whose bad runs stand in test_hub.py and test_probes.py."""
