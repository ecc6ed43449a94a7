import torch

from tests.train.conftest import ROOT


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


def test_two_runs_with_the_same_seed_give_the_same_bits(train):
    one, other = train("one", shuffle_caption=True), train("other", shuffle_caption=True)
    assert one.losses == other.losses
    assert same(one.tensors(), other.tensors())
    assert one.metadata()["sshs_model_hash"] == other.metadata()["sshs_model_hash"]


def test_another_seed_gives_another_lora(train):
    assert not same(train("one").tensors(), train("other", seed=2).tensors())


def test_a_resumed_run_equals_an_unbroken_one(train):
    settings = {"shuffle_caption": True, "lr_scheduler": "cosine", "lr_warmup_steps": 2, "max_train_steps": 6,
                "network_dropout": 0.2, "min_snr_gamma": 5, "noise_offset": 0.05}
    whole = train("whole", save_every_n_steps=3, save_state=True, **settings)
    resumed = train("resumed", resume=whole.folder / "whole-step00000003-state", **settings)
    assert resumed.losses == whole.losses[3:]
    assert same(whole.tensors(), resumed.tensors())


def test_resuming_goes_on_in_mid_epoch_and_over_its_end(train):
    settings = {"max_train_epochs": 2, "train_batch_size": 32, "gradient_accumulation_steps": 2}
    whole = train("whole", save_every_n_steps=2, save_state=True, **settings)
    resumed = train("resumed", resume=whole.folder / "whole-step00000002-state", **settings)
    assert len(whole.losses) == 6
    assert same(whole.tensors(), resumed.tensors())


def test_files_have_kohyas_names(train):
    run = train("mychar", save_every_n_steps=2, save_state=True, max_train_steps=5)
    assert {"mychar.safetensors", "mychar-step00000002.safetensors", "mychar-step00000004.safetensors", "mychar-state",
            "mychar-step00000002-state", "mychar-step00000004-state"} <= run.files


def test_epoch_files_are_numbered_and_the_last_is_not(train):
    run = train("mychar", max_train_epochs=3, train_batch_size=80, save_every_n_epochs=1)
    assert {"mychar-000001.safetensors", "mychar-000002.safetensors", "mychar.safetensors"} <= run.files
    assert "mychar-000003.safetensors" not in run.files


def test_older_files_go_where_only_the_last_are_wanted(train):
    run = train("mychar", max_train_steps=8, save_every_n_steps=2, save_last_n_steps=2)
    assert {name for name in run.files if "step" in name} == {"mychar-step00000006.safetensors",
                                                              "mychar-step00000008.safetensors"}


def test_every_module_of_the_file_was_trained(train):
    run = train()
    ups = {key: tensor for key, tensor in run.tensors().items() if "lora_up" in key}
    assert any(key.startswith("lora_te_text_model_") for key in ups)
    assert all(tensor.abs().max() > 0 for tensor in ups.values())


def test_text_encoder_and_unet_are_left_out_as_asked(train):
    unet, text = train("u", network_train_unet_only=True), train("t", network_train_text_encoder_only=True)
    assert all(key.startswith("lora_unet_") for key in unet.tensors())
    assert all(key.startswith("lora_te_") for key in text.tensors())


def test_a_wrong_data_folder_ends_with_exit_code_1_and_the_right_path(train, capsys):
    run = train(train_data_dir=ROOT / "examples" / "dataset" / "10_zobi")
    assert run.code == 1
    assert "examples" in capsys.readouterr().err.splitlines()[-1] or "one level too deep" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run_and_changes_nothing(train, monkeypatch, capsys):
    from library.diffusion import losses

    monkeypatch.setattr(losses.F, "mse_loss", lambda a, b, reduction: (a - b) ** 2 * float("nan"))
    run = train(max_train_steps=10)
    assert run.code == 1
    assert "NaN" in capsys.readouterr().err
    assert "lora.safetensors" not in run.files
    assert all(torch.isfinite(tensor).all() for tensor in run.tensors("lora-lastgood.safetensors").values())


def test_dry_run_shows_the_settings_and_trains_nothing(train, capsys):
    run = train(dry_run=True)
    assert run.code == 0 and not run.folder.exists()
    shown = capsys.readouterr().out
    assert "network" in shown.lower() and "[command line]" in shown
