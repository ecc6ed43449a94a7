"""How closely the trainer follows recorded runs of kohya's: loss by step, and the file at the end.

    python benchmarks/fidelity.py RUNS_JSON MODEL DATA [--runs plain epochs] [--write docs/fidelity.md]

RUNS_JSON holds for each run its arguments and what was recorded (`steps`: loss, captions, timesteps;
`up_weight_norms`); beside it `runs/NAME.safetensors` is the file that run saved, where there is one. MODEL is the
random full-size model and DATA the folder of pictures the runs were recorded with (`train/`, `reg/`,
`data_small/train/`). Each run is trained here with the same arguments and `--kohya_order`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure

WITHIN = 1e-4
COSINE = 0.999
IDLE = 1e-4
SPECIAL = {
    "plain": "shuffled captions, keep_tokens 1",
    "epochs": "three epochs of three pictures",
    "reg": "regularisation pictures, prior_loss_weight 0.5",
    "cached": "--cache_latents",
    "locon": "conv_dim 4, conv_alpha 1",
    "snr_offset": "--min_snr_gamma=5 --noise_offset=0.05",
    "buckets": "resolution 128,128",
}
"""What is special about a recorded run."""
HEAD = """# Fidelity

The trainer beside kohya sd-scripts v0.10.1: the same arguments, model, pictures, seed and random numbers (`--kohya_order`),
full-size Stable Diffusion 1.5 with random weights, fp32 on a CPU. Written by `benchmarks/fidelity.py`, on {machine}.

Loss: the largest relative difference of any step. Norms: the largest relative difference of any module's `lora_up` norm
after the last step. Cosine: the least of all modules between the update that the saved file holds and the recorded one
(the file of one run was kept). Idle: the largest `lora_up` norm here of modules that learned exactly nothing there: at
64x64 the middle block's self-attention has one place to look at, so its queries and keys cannot matter; their gradient is
0 in kohya's attention and rounding noise in PyTorch's, which AdamW takes for a direction. Other norms are near 0.01.

"""


@dataclass(frozen=True)
class Outcome:
    """What a run here and its record have in common."""

    run: str
    losses: list[float]
    recorded: list[float]
    norms: tuple[float, float]
    cosine: float | None

    @property
    def difference(self) -> float:
        return max(relative(a, b) for a, b in zip(self.losses, self.recorded, strict=True))

    @property
    def row(self) -> str:
        cosine = "" if self.cosine is None else f"{self.cosine:.8f}"
        return (f"| {self.run} | {SPECIAL.get(self.run, '')} | {len(self.losses)} | {self.difference:.1e} | "
                f"{self.norms[0]:.1e} | {cosine} | {self.norms[1]:.1e} |")

    @property
    def holds(self) -> bool:
        return self.difference < WITHIN and self.norms[1] < IDLE and (self.cosine is None or self.cosine >= COSINE)


def relative(value: float, reference: float) -> float:
    return abs(value - reference) / abs(reference)


def placed(arguments: list[str], model: Path, data: Path) -> list[str]:
    """A recorded run's arguments with the paths of this machine."""
    moved = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        if flag == "--pretrained_model_name_or_path":
            value = str(model)
        elif flag in ("--train_data_dir", "--reg_data_dir"):
            value = str(data / value.removeprefix("data/"))
        moved.append(flag + equals + value)
    return moved


def train(name: str, record: Mapping[str, Any], model: Path, data: Path, folder: Path) -> Path:
    """Train a recorded run anew, on two threads as it was recorded unless the environment says otherwise; its output folder."""
    output = folder / name
    command = [sys.executable, str(measure.ROOT / "train_network.py"), *placed(record["arguments"], model, data),
               "--kohya_order", f"--output_dir={output}", f"--output_name={name}"]
    measure.run(command, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "2"))
    return output


def losses(output: Path, name: str) -> list[float]:
    lines = (output / f"{name}-report" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def updates(file: Path) -> dict[str, Any]:
    """Module name -> its flattened update, up @ down * alpha / rank."""
    from safetensors.torch import load_file

    tensors, found = load_file(file), {}
    for key in tensors:
        if key.endswith(".lora_up.weight"):
            stem = key.removesuffix(".lora_up.weight")
            up, down = tensors[key].double().flatten(1), tensors[f"{stem}.lora_down.weight"].double().flatten(1)
            found[stem] = (up @ down * tensors[f"{stem}.alpha"].double() / len(down)).flatten()
    return found


def least_cosine(ours: Path, theirs: Path) -> float:
    """The least cosine of any module that learned; SystemExit where the files hold different modules."""
    import torch

    mine, recorded = updates(ours), updates(theirs)
    if set(mine) != set(recorded):
        raise SystemExit(f"modules differ: {sorted(set(mine) ^ set(recorded))[:5]}")
    return min(torch.nn.functional.cosine_similarity(mine[name], recorded[name], dim=0).item() for name in mine
               if recorded[name].any())


def norms(file: Path, recorded: Mapping[str, float]) -> tuple[float, float]:
    """(largest relative difference of a module's lora_up norm, largest norm here of a module that learned nothing there)."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    here = {name: tensors[f"{name}.lora_up.weight"].norm().item() for name in recorded}
    return (max(relative(here[name], norm) for name, norm in recorded.items() if norm),
            max((here[name] for name, norm in recorded.items() if not norm), default=0.0))


def compare(name: str, record: Mapping[str, Any], output: Path, recorded_file: Path) -> Outcome:
    file = output / f"{name}.safetensors"
    cosine = least_cosine(file, recorded_file) if recorded_file.exists() else None
    return Outcome(name, losses(output, name), [step["loss"] for step in record["steps"]],
                   norms(file, record["up_weight_norms"]), cosine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs_json", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", nargs="+", help="only these (default: all)")
    parser.add_argument("--write", type=Path, help="write the table as a page of its own")
    asked = parser.parse_args()
    recorded = json.loads(asked.runs_json.read_text(encoding="utf-8"))
    outcomes = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in asked.runs or sorted(recorded, key=list(SPECIAL).index):
            output = train(name, recorded[name], asked.model.resolve(), asked.data.resolve(), Path(folder))
            outcomes.append(compare(name, recorded[name], output, asked.runs_json.parent / "runs" / f"{name}.safetensors"))
            print(outcomes[-1].row, flush=True)
            for step, (a, b) in enumerate(zip(outcomes[-1].losses, outcomes[-1].recorded, strict=True), 1):
                print(f"    step {step}: {a:.7f}, recorded {b:.7f}, relative difference {relative(a, b):.1e}", flush=True)
    if asked.write:
        table = ["| run | what is special | steps | loss | norms | cosine | idle |", "|---|---|---|---|---|---|---|",
                 *(outcome.row for outcome in outcomes)]
        asked.write.write_text(HEAD.format(machine=measure.machine()) + "\n".join(table) + "\n", encoding="utf-8")
    missed = [outcome.run for outcome in outcomes if not outcome.holds]
    print(f"within {WITHIN:g}: {len(outcomes) - len(missed)} of {len(outcomes)}", *(f"not: {run}" for run in missed), sep="; ")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
