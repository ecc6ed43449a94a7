"""resolve: every value decided once; all contradictions together; the user's recipe means what it says."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from dataclasses import fields, make_dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from library.config.resolve import Detected, resolve
from library.config.show import text, to_json
from library.config.toml_file import read_command
from library.families import registry
from library.flags import SCRIPTS, flags_of, parse
from library.util.records import Problem, UserError
from tests.config.helpers import FAMILY, NEEDED, resolved
from tests.flags.reference import COMMANDS
from tests.flags.test_command_line import RECIPE, as_argv

ROOT = Path(__file__).parents[2]


def stopped(argv, needed=True, **found) -> str:
    with pytest.raises(UserError) as caught:
        resolved(argv, needed=needed, **found)
    return "\n".join(f"{one.where}: {one.what} {one.remedy}" for one in caught.value.problems)


def said(config) -> str:
    return "\n".join(f"{one.where}: {one.what} {one.remedy}" for one in config.notes)


def test_the_proven_recipe_resolves_to_what_it_says():
    config = resolved(shlex.split(RECIPE), needed=False)
    assert (config.model.source, config.network.module, config.network.dim, config.network.alpha) == (
        "runwayml/stable-diffusion-v1-5",
        "networks.lora",
        4,
        4.0,
    )
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.unet_lr, config.optimizer.text_encoder_lr) == (
        "AdamW",
        1e-4,
        None,
        (5e-5,),
    )
    assert (
        config.schedule.name,
        config.schedule.warmup,
        config.loop.max_train_steps,
        config.loop.max_train_epochs,
    ) == ("constant", 0, 1000, None)
    assert (config.save.output_dir, config.save.output_name, config.save.model_as) == (
        Path("lora_out"),
        "lineart_lora",
        "safetensors",
    )
    assert (config.save.every_n_steps, config.save.state, config.machine.mixed_precision) == (100, True, "fp16")
    part = config.data.parts[0]
    assert (part.resolution, part.batch_size, part.enable_bucket, config.data.template.caption_extension) == (
        (512, 512),
        1,
        True,
        ".txt",
    )
    assert (
        config.network.train_denoiser
        and config.network.train_text_encoder
        and config.data.train_data_dir == Path("dataset/lineart")
    )


def test_a_seed_is_drawn_and_announced_where_none_is_given():
    first, second = resolved(), resolved()
    assert (
        first.loop.seed != second.loop.seed and str(first.loop.seed) in said(first) and first.origins["seed"] == "drawn"
    )
    assert resolved(["--seed=0"]).loop.seed == 0


@pytest.mark.parametrize(("typed", "value"), [("5%", 0.05), ("0.05", 0.05), ("100", 100), ("0", 0)])
def test_warmup_is_steps_or_a_part_of_them(typed, value):
    warmup = resolved([f"--lr_warmup_steps={typed}", "--lr_scheduler=cosine"]).schedule.warmup
    assert warmup == value and type(warmup) is type(value)


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ([], "AdamW"),
        (["--use_8bit_adam"], "AdamW8bit"),
        (["--use_lion_optimizer"], "Lion"),
        (["--optimizer_type=prodigy"], "prodigy"),
    ],
)
def test_old_optimizer_flags_mean_names(argv, name):
    assert resolved(argv).optimizer.name == name


def test_network_args_stay_text_and_optimizer_args_become_values():
    config = resolved(
        ["--network_args", "conv_dim=4", "algo=locon", "--optimizer_args", "betas=0.9,0.99", "decouple=True"]
    )
    assert config.network.args == {"conv_dim": "4", "algo": "locon"}
    assert config.optimizer.args == {"betas": (0.9, 0.99), "decouple": True}


def test_which_parts_are_trained_follows_from_the_flags():
    def parts(*argv, script="train_network.py"):
        network = resolved(argv, script).network
        return network.train_denoiser, network.train_text_encoder

    assert parts() == (True, True)
    assert parts("--network_train_unet_only") == (True, False)
    assert parts("--network_train_text_encoder_only") == (False, True)
    assert parts("--cache_text_encoder_outputs", script="sdxl_train_network.py") == (True, False)
    assert parts("--slider_lora_target") == (True, False)


@pytest.mark.parametrize(
    ("argv", "targets"),
    [
        ([], None),
        (["--slider_lora_target"], "auto"),
        (["--slider_lora_target", "true"], "auto"),
        (["--slider_lora_target", "false"], None),
        (["--slider_lora_target=visual"], "visual"),
    ],
)
def test_slider_targets_are_named(argv, targets):
    assert resolved(argv).network.targets == targets


@pytest.mark.parametrize(
    ("argv", "loss", "goal"),
    [
        ([], "scale_free", "change"),
        (["--slider_pair_goal=pictures"], "scale_free", "pictures"),
        (["--slider_loss=plain"], "plain", "pictures"),
        (["--min_snr_gamma=5"], "plain", "pictures"),
        (["--min_snr_gamma=5", "--slider_loss=scale_free"], "scale_free", "change"),
    ],
)
def test_who_weighs_noise_levels_himself_keeps_the_plain_loss_of_sliders(argv, loss, goal):
    slider = resolved(argv).data.slider
    assert (slider.loss, slider.pair_goal) == (loss, goal)


def test_options_come_from_the_flag_then_the_checkpoint_then_the_default():
    assert resolved().model.options == {"v2": False, "v_parameterization": False}
    config = resolved(["--clip_skip=2"], v_parameterization=True, v2=True)
    assert config.model.options == {"v2": True, "v_parameterization": True, "clip_skip": 2}
    assert config.origins["v2"] == "checkpoint" and config.origins["clip_skip"] == "command line"


def test_the_defaults_of_another_architectures_script_do_not_reach_a_model():
    """Flux' script predicts sigma_scaled where nothing is typed, which no other architecture can learn with."""
    def options(script, *argv):
        return resolve(parse([*NEEDED, *argv], script), lambda source, flags: Detected("lumina2")).model.options

    assert "model_prediction_type" not in options("flux_train_network.py")
    typed = options("flux_train_network.py", "--discrete_flow_shift=2")
    assert typed == {"discrete_flow_shift": 2.0} and options("lumina_train_network.py")["discrete_flow_shift"] == 6.0


def test_an_option_of_another_architecture_stops_where_it_was_asked_for():
    with pytest.raises(UserError, match="t5xxl"):
        resolved(["--t5xxl=x.safetensors"], script="sd3_train_network.py")
    assert resolved(script="sd3_train_network.py").model.options["v2"] is False


def test_problems_of_detection_join_the_others():
    def fails(source, flags):
        raise UserError(Problem("--pretrained_model_name_or_path", "is a web page.", "Download it again."))

    with pytest.raises(UserError) as caught:
        resolve(parse([*NEEDED, "--full_fp16"]), fails, lambda name: FAMILY)
    assert {one.where for one in caught.value.problems if one.severity == "stop"} == {
        "--pretrained_model_name_or_path",
        "--full_fp16",
    }


CONTRADICTIONS = [
    ("--full_fp16", "only with --mixed_precision=fp16"),
    ("--full_bf16 --mixed_precision=fp16", "only with --mixed_precision=bf16"),
    ("--network_train_unet_only --network_train_text_encoder_only", "exclude each other"),
    ("--dim_from_weights", "--network_weights"),
    ("--lr_warmup_steps=10", "constant_with_warmup"),
    ("--use_8bit_adam --use_lion_optimizer", "More than one optimizer"),
    ("--use_8bit_adam --optimizer_type=Lion", "More than one optimizer"),
    ("--adaptive_noise_scale=0.1", "--noise_offset"),
    ("--cache_latents --color_aug", "Remove --color_aug"),
    ("--cache_latents_to_disk --random_crop", "Remove --random_crop"),
    ("--min_timestep=500 --max_timestep=400", "below --max_timestep"),
    ("--network_dim=0", "1 or more"),
    ("--caption_dropout_rate=2", "between 0 and 1"),
    ("--token_warmup_min=0", "1 or more"),
    ("--resolution=a", "is not a size"),
    ("--scale_v_pred_loss_like_noise_pred", "predict v"),
    ("--resume_from_huggingface", "--resume"),
    ("--save_state_to_huggingface", "--huggingface_repo_id"),
    ("--unet_lr=0 --network_train_unet_only", "Nothing would be trained"),
    ("--dataset_class=a.B", "--dataset_config"),
    ("--network_args conv_dim", "name=value"),
    ("--optimizer_args a=[1", "cannot be read"),
    ("--lr_warmup_steps=1.5 --lr_scheduler=cosine", "neither"),
    ("--enable_bucket --bucket_reso_steps=32", "multiple of 64"),
    ("--save_format=comfy", "kohya or diffusers"),
    ("--learning_rate=-1", "0 or more"),
    ("--base_weights_multiplier 1", "--base_weights"),
    ("--text_encoder_lr=0 --unet_lr=0", "Nothing would be trained"),
]


@pytest.mark.parametrize(("line", "words"), CONTRADICTIONS, ids=[case[0] for case in CONTRADICTIONS])
def test_contradictions_stop_with_the_way_out(line, words):
    assert words in stopped(line.split())


def test_all_contradictions_are_reported_together():
    found = stopped(
        ["--full_fp16", "--network_dim=0", "--optimizer_args", "a", "--caption_dropout_rate=3"], needed=False
    )
    for words in (
        "--full_fp16",
        "--network_dim",
        "--optimizer_args",
        "--caption_dropout_rate",
        "No base model",
        "No output folder",
        "No training pictures",
    ):
        assert words in found


def test_cached_captions_must_not_change():
    with pytest.raises(UserError, match="these are on: shuffle_caption, caption_tag_dropout_rate"):
        resolved(
            [
                "--cache_text_encoder_outputs",
                "--network_train_unet_only",
                "--shuffle_caption",
                "--caption_tag_dropout_rate=0.1",
            ],
            script="sdxl_train_network.py",
        )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--mem_eff_attn"], "concerns memory alone"),
        (["--fused_backward_pass"], "goes on without"),
        ([], "1600 steps, the usual default"),
        ([], "networks.lora is trained"),
    ],
)
def test_what_is_served_otherwise_is_said_in_one_line(argv, words):
    assert words in said(resolved(argv))


def test_zero_means_off_where_front_ends_write_it():
    config = resolved(
        [
            "--max_train_epochs=0",
            "--save_every_n_steps=0",
            "--min_snr_gamma=0",
            "--scale_weight_norms=0",
            "--noise_offset=0",
            "--multires_noise_iterations=0",
            "--clip_skip=0",
        ]
    )
    assert (
        config.loop.max_train_epochs,
        config.save.every_n_steps,
        config.loss.min_snr_gamma,
        config.network.scale_weight_norms,
        config.noise.offset,
        config.noise.multires_iterations,
        config.model.clip_skip,
    ) == (None,) * 7


RUNNABLE = [one for one in COMMANDS if one["given_as"] == "command" and one["script"] in SCRIPTS and one["accepted"]]


@pytest.mark.parametrize("record", RUNNABLE, ids=lambda one: one["script"])
def test_recorded_command_lines_resolve_on_a_model_that_has_their_options(record, tmp_path):
    (tmp_path / "d.toml").write_text(
        "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'a'\n", encoding="utf-8"
    )
    flags = parse(
        [*NEEDED[:1], "--output_dir=out", *as_argv(record), f"--dataset_config={tmp_path / 'd.toml'}"], record["script"]
    )
    names = [name for name, flag in flags_of(record["script"]).items() if flag.served.kind == "family"]
    options = make_dataclass("Options", [(name, object, None) for name in names])
    family = SimpleNamespace(SPEC=FAMILY.SPEC, Options=options)
    config = resolve(flags, lambda source, flags: Detected("some"), lambda name: family)
    assert (config.optimizer.lr, config.network.dim) == (flags["learning_rate"], flags["network_dim"])
    assert {name: config.model.options[name] for name in names if flags.given(name)} == {
        name: flags[name] for name in names if flags.given(name)
    }


FILES = [one for one in COMMANDS if one["given_as"] != "command" and one["script"] in SCRIPTS]


@pytest.mark.parametrize("record", FILES, ids=lambda one: f"{one['given_as']}-{one['script']}")
def test_recorded_settings_files_are_never_fatal(record, tmp_path):
    (tmp_path / "d.toml").write_text(
        "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'a'\n", encoding="utf-8"
    )
    lines = [f"[t{i}]\n{name} = {json.dumps(value, ensure_ascii=False)}\n" for i, (name, value) in enumerate(record["flags"])]
    (tmp_path / "a.toml").write_text("".join(lines), encoding="utf-8")
    flags = read_command(
        [*NEEDED[:1], "--output_dir=out", f"--config_file={tmp_path / 'a.toml'}", f"--dataset_config={tmp_path / 'd.toml'}"],
        record["script"],
    )
    names = [name for name, flag in flags_of(record["script"]).items() if flag.served.kind == "family"]
    options = make_dataclass("Options", [(name, object, None) for name in names])
    family = SimpleNamespace(SPEC=FAMILY.SPEC, Options=options)
    config = resolve(flags, lambda source, flags: Detected("some"), lambda name: family)
    assert config.optimizer.lr == flags["learning_rate"]
    named = "\n".join(f"{note.where} {note.what}" for note in config.notes)
    assert all(key in named for key in record["unknown"])


def test_the_shown_run_names_every_given_value_with_its_origin(tmp_path):
    (tmp_path / "a.toml").write_text("network_dim = 8\n", encoding="utf-8")
    flags = read_command(
        [
            *NEEDED,
            "--config_file",
            str(tmp_path / "a.toml"),
            "--keep_tokens=2",
            "--network_args",
            "conv_dim=4",
            "--seed=3",
        ]
    )
    shown = text(resolve(flags, lambda source, flags: Detected("some", {"v2": True}), lambda name: FAMILY))
    lines = {line.split()[0]: line for line in shown.splitlines() if line.startswith("  ")}
    assert "8   [a.toml:1]" in lines["dim"] and "[checkpoint]" in lines["v2"] and "[default]" in lines["lr"]
    assert "conv_dim=4   [command line]" in lines["args"]
    assert (
        "keep_tokens" in shown and "[command line]" in lines["source"] and lines["seed"].endswith("3   [command line]")
    )


def test_neither_text_nor_json_holds_a_secret():
    token = "hf_" + "abcdefghijklmnop1234"
    config = resolved(
        [
            f"--huggingface_token={token}",
            "--wandb_api_key=key123456789",
            f"--training_comment=made with {token}",
            "--huggingface_repo_id=me/it",
            "--output_name=絵",
        ]
    )
    for shown in (text(config), to_json(config)):
        assert token not in shown and "key123456789" not in shown and "絵" in shown
    found = json.loads(to_json(config))
    assert (
        found["network"]["module"] == "networks.lora"
        and found["save"]["output_dir"] == "out"
        and found["data"]["parts"][0]["resolution"] == [512, 512]
    )


def test_reading_and_resolving_take_under_a_third_of_a_second_and_no_torch():
    code = (
        "import sys, time\nfrom library.config.toml_file import read_command\n"
        "from library.config.resolve import resolve, Detected\n"
        "from tests.config.helpers import FAMILY\n"
        f"flags = read_command({shlex.split(RECIPE)!r})\n"
        "config = resolve(flags, lambda s, f: Detected('some'), lambda n: FAMILY)\n"
        "heavy = ('torch', 'numpy', 'diffusers', 'transformers', 'PIL')\n"
        "print(time.process_time(), [m for m in heavy if m in sys.modules])"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True
        ).stdout
        for _ in range(3)
    ]
    assert min(float(one.split()[0]) for one in outputs) < 0.3 and all(
        one.split(maxsplit=1)[1].strip() == "[]" for one in outputs
    )


def test_resolving_is_quick_once_loaded():
    start = time.process_time()
    resolved(shlex.split(RECIPE), needed=False)
    assert time.process_time() - start < 0.1


def test_further_loras_for_samples_carry_a_strength():
    config = resolved(["--sample_loras", "C:\\a=b\\style.safetensors=0.7", "other.safetensors"])
    assert config.sample.loras == (("C:\\a=b\\style.safetensors", 0.7), ("other.safetensors", 1.0))


def test_documented_settings_are_offered_and_taken_when_asked_for():
    def of_flux(*argv):
        flags = parse([*NEEDED, *argv], "flux_train_network.py")
        return resolve(flags, lambda source, flags: Detected("flux1", {}))

    plain, better, typed = of_flux(), of_flux("--recommended"), of_flux("--recommended", "--guidance_scale=2")
    assert plain.model.options["model_prediction_type"] == "sigma_scaled"  # kohya's default
    offer = next(note for note in plain.notes if note.where == "--recommended")
    assert "--timestep_sampling=flux_shift --model_prediction_type=raw --guidance_scale=1.0" in offer.what
    assert [better.model.options[name] for name in ("timestep_sampling", "model_prediction_type", "guidance_scale")] == [
        "flux_shift", "raw", 1.0]  # fmt: skip
    assert better.origins["guidance_scale"] == "recommended" and not [n for n in better.notes if n.where == "--recommended"]
    assert typed.model.options["guidance_scale"] == 2


def test_a_model_type_that_the_file_contradicts_stops_with_the_way_out():
    def of(family, *argv):
        return resolve(parse([*NEEDED, *argv], "flux_train_network.py"), lambda source, flags: Detected(family, {}))

    for family, typed in (("flux1", "chroma"), ("chroma", "flux")):
        with pytest.raises(UserError) as error:
            of(family, f"--model_type={typed}")
        assert "told by its file" in error.value.problems[0].remedy
    assert of("flux1", "--model_type=flux").model.family == "flux1" and of("chroma", "--model_type=chroma")


def test_scaled_8_bits_are_a_quantisation_of_the_base():
    config = resolve(parse([*NEEDED, "--fp8_base", "--fp8_scaled"], "hunyuan_image_train_network.py"),
                     lambda source, flags: Detected("hunyuanimage", {}))
    assert (config.machine.base_quantization, config.machine.denoiser_in_8_bits) == ("fp8", False)


@pytest.mark.parametrize(("argv", "waits"), [
    ((), False), (("--fp8_base",), True), (("--blocks_to_swap=2",), True), (("--base_quantization=int8",), True),
    (("--cache_text_encoder_outputs",), True), (("--cache_text_encoder_outputs", "--lowram"), False)])
def test_the_denoiser_waits_in_main_memory_while_it_is_made_smaller_or_captions_are_encoded(argv, waits):
    assert resolved(list(argv)).denoiser_waits == waits


def test_every_recommended_setting_is_an_option_of_its_family():
    for name in registry.names():
        family = registry.get(name)
        assert set(family.SPEC.recommended) <= {one.name for one in fields(family.Options)}, name
