import json
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """A finished run of the trainer on the shipped model, with what it left."""

    def __init__(self, folder: Path, name: str, code: int):
        self.folder, self.name, self.code = folder, name, code

    @property
    def losses(self) -> list[float]:
        text = (self.folder / f"{self.name}-report" / "log.jsonl").read_text(encoding="utf-8")
        return [json.loads(line)["loss"] for line in text.splitlines()]

    def tensors(self, file: str | None = None) -> dict:
        with safe_open(self.folder / (file or f"{self.name}.safetensors"), "pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  (no mapping)

    def metadata(self, file: str | None = None) -> dict[str, str]:
        with safe_open(self.folder / (file or f"{self.name}.safetensors"), "pt") as opened:
            return opened.metadata()

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train on the shipped model and pictures in this process: ``train(max_train_steps=4, shuffle_caption=True)``."""
    from library.train.run import main

    monkeypatch.chdir(tmp_path)

    def run(name="lora", *more: str, script="train_network.py", **flags) -> Run:
        settings = {
            "pretrained_model_name_or_path": ROOT / "examples" / "tiny-sd", "train_data_dir": ROOT / "examples" / "dataset",
            "output_dir": tmp_path / "out", "output_name": name, "resolution": "64,64", "network_module": "networks.lora",
            "network_dim": 4, "network_alpha": 4, "learning_rate": 1e-3, "caption_extension": ".txt", "max_train_steps": 4,
            "seed": 1, "console_log_level": "WARNING"} | flags
        argv = [f"--{flag}" if value is True else f"--{flag}={value}" for flag, value in settings.items()
                if value is not None and value is not False]
        return Run(Path(settings["output_dir"]), name, main([*argv, *more], script))

    return run
