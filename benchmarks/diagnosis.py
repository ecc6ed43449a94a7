"""Are an undertrained, a good and an overtrained run told apart? Trains all three on the shipped model for ten seeds, then asks.

    python benchmarks/diagnosis.py                            seeds 1 to 10, about 25 minutes on two cores
    python benchmarks/diagnosis.py --seeds 6-10 --folder F    goes on with what lies in F, trains what is missing

Both verdicts are shown: the run's own, from a few pictures at its end, and that of tools/diagnose.py. Wanted: each kind is
recognised by both in at least 9 of 10 seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from library.study.checkup import Checkup  # noqa: E402  (needs the path above)

KINDS = {
    "undertrained": ["--max_train_steps=50"],
    "good": ["--max_train_steps=250"],
    "overtrained": ["--max_train_steps=150", "--learning_rate=1e-2", "--text_encoder_lr=1e-2", "--reg_data_dir="],
}
"""Verdict that is due -> settings beside the quickstart's: a fifth of the steps; the quickstart; ten times the rate on its own."""
WANTED = 0.9


def trained(kind: str, seed: int, folder: Path) -> Path:
    """The file of a run; made unless it is there."""
    place = folder / f"{kind}-{seed}"
    file = place / "zobi.safetensors"
    if not file.is_file():
        subprocess.run([sys.executable, str(ROOT / "train_network.py"), "--config_file", str(ROOT / "examples" / "quickstart.toml"),
                        f"--output_dir={place}", f"--logging_dir={place / 'logs'}", f"--seed={seed}", "--sample_prompts=",
                        *KINDS[kind]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", default="1-10", help="first and last")
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "diagnosis")
    args = parser.parse_args()
    first, last = (int(one) for one in args.seeds.split("-"))
    examiner, right = Checkup(), {(kind, who): [] for kind in KINDS for who in ("run", "tool")}
    for seed in range(first, last + 1):
        for kind in KINDS:
            file = trained(kind, seed, args.folder)
            own = json.loads((file.parent / "zobi-report" / "diagnosis.json").read_text(encoding="utf-8"))
            found = examiner.of(file).verdict
            right[kind, "run"].append(own["verdict"] == kind)
            right[kind, "tool"].append(found.kind == kind)
            figures = ", ".join(f"{name} {value:.2f}" for name, value in found.figures.items())
            print(f"seed {seed:2} {kind:13} run: {own['verdict']:13} tool: {found.kind:13} {figures}", flush=True)
    for (kind, who), seen in right.items():
        print(f"{kind:13} by the {who:4} {sum(seen):2} of {len(seen)}")
    return int(any(sum(seen) < WANTED * len(seen) for seen in right.values()))


if __name__ == "__main__":
    sys.exit(main())
