"""Tokens that a user left in all the places where tokens get left do not come out of a run again."""

import json
import re

import pytest

from tests.train.conftest import ROOT

PLACES = ("flag", "comment", "title", "caption", "variable", "prompt", "config", "tags", "data")
PLANTED = {place: f"hf_{place}{'QxZw7' * 7}" for place in PLACES}
LINKS = ("https://me:{0}@host.example/x", "https://{0}@host.example/x", "https://host.example/x?a=1&token={0}", "https://h.example/x?sig={0}")
"""Addresses with a password or key in them, which has no shape of its own."""
BARE = "QxZw7" * 3
LEAK = re.compile(rb"(?:QxZw7){2}")


@pytest.mark.parametrize("token", [PLANTED["flag"], BARE], ids=["shaped", "bare"])
def test_no_byte_that_a_run_writes_or_prints_holds_a_token(token, train, tmp_path, monkeypatch, capfd):
    data = tmp_path / "data" / "4_zobi"
    data.mkdir(parents=True)
    for picture in sorted((ROOT / "examples" / "dataset").glob("*/*.png"))[:4]:
        (data / picture.name).write_bytes(picture.read_bytes())
        words = f"zobi, {PLANTED['caption']}, {LINKS[0].format(BARE)}, red"
        (data / f"{picture.stem}.txt").write_text(words, encoding="utf-8")
    (tmp_path / "prompts.txt").write_text(f"zobi {PLANTED['prompt']} --w 64 --h 64 --s 2\n", encoding="utf-8")
    (tmp_path / "run.toml").write_text(
        f'metadata_author = "{PLANTED["config"]}"\nwandb_api_key = "{BARE}"\n'
        f'metadata_license = "{LINKS[2].format(BARE)}"\n', encoding="utf-8"
    )
    (tmp_path / "data.toml").write_text(
        f'[general]\nresolution = 64\ncaption_extension = ".txt"\n[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 4\n'
        f'image_dir = "{data.as_posix()}"\ncaption_prefix = "{PLANTED["data"]} "\nclass_tokens = "{LINKS[3].format(BARE)}"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("HF_TOKEN", PLANTED["variable"])
    monkeypatch.setenv("WANDB_API_KEY", PLANTED["variable"])
    run = train(
        train_data_dir=None,
        dataset_config=tmp_path / "data.toml",
        max_train_steps=2,
        save_every_n_steps=1,
        save_state=True,
        logging_dir=tmp_path / "logs",
        huggingface_token=token,
        training_comment=f"mine {PLANTED['comment']}",
        metadata_title=PLANTED["title"],
        metadata_description=" ".join(link.format(BARE) for link in LINKS),
        metadata_tags=PLANTED["tags"],
        sample_prompts=tmp_path / "prompts.txt",
        sample_every_n_steps=2,
        config_file=tmp_path / "run.toml",
        log_config=True,
        console_log_level="DEBUG",
        console_log_file=tmp_path / "out" / "run.log",
    )
    printed = "".join(capfd.readouterr())
    assert run.code == 0, printed
    planted = {data, tmp_path / "prompts.txt", tmp_path / "run.toml", tmp_path / "data.toml"}
    written = [path for path in tmp_path.rglob("*") if path.is_file() and not planted & {path, path.parent}]
    assert len(written) > 10
    assert [path.name for path in written if LEAK.search(path.read_bytes())] == []
    assert not LEAK.search(printed.encode())
    assert "hf_***" in json.dumps(run.metadata())
