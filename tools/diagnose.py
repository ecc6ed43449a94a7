"""Says what a trained LoRA suffers from, if anything, and what to do: undertrained, overtrained, over-fitted, damaged.

    python tools/diagnose.py output/name.safetensors
    python tools/diagnose.py output/name-000002.safetensors output/name-000004.safetensors output/name.safetensors
    python tools/diagnose.py FILE --pretrained_model_name_or_path MODEL --train_data_dir DATA --resolution 512

Base model and pictures are those of the run, whose report folder lies beside the file; else the flags name them. Without
them only the file itself is judged. The exit code is 1 where a file is damaged.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.study import checkup
from library.util import command, log
from library.util.said import spoken

OF_TRAINING = {
    "config_file": "settings of the training run: model, pictures and prompts are taken from it",
    "pretrained_model_name_or_path": "base model: checkpoint, diffusers folder or hub id",
    "vae": "another VAE",
    "clip_skip": "layers of the text encoder to leave out, as trained",
    "train_data_dir": "training pictures",
    "reg_data_dir": "pictures of what the model is to keep; without them its own are drawn",
    "dataset_config": "dataset description (TOML) in place of the two",
    "resolution": "size of training",
    "caption_extension": "ending of caption files",
    "sample_prompts": "file of prompts that are drawn to look for copies; without it captions are",
}
"""Flags of training that are handed on as they are."""


def setup_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="LoRA files, of one run or of several")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.add_argument("--no_pictures", action="store_true", help="draw no samples: quicker, and no search for copies")
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, mps")
    for name, about in OF_TRAINING.items():
        parser.add_argument(f"--{name}", help=about)
    return parser


def work(args: argparse.Namespace) -> list[checkup.Checked]:
    """Examine every file, tell, choose among several."""
    typed = [f"--{name}={vars(args)[name]}" for name in OF_TRAINING if vars(args)[name] is not None]
    examiner = checkup.Checkup(typed, args.device, not args.no_pictures, command.tell if not args.json else lambda line: None)
    checked = []
    for name in args.files:
        checked.append(examiner.of(Path(name)))
        if not args.json:
            command.tell("\n".join(map(spoken, checked[-1].lines())) + "\n")
    if args.json:
        command.tell(json.dumps([one.as_json() for one in checked], ensure_ascii=False))
        return checked
    for line in [*(checkup.in_a_row(checked) if len(checked) > 1 else []), *checkup.on_data(checked)]:
        command.tell(spoken(line))
    return checked


def main(argv: list[str]) -> int:
    """1 where a file is damaged or cannot be read."""
    checked: list[checkup.Checked] = []
    code = command.run(setup_parser(), lambda args: checked.extend(work(args)), argv)
    return code or int(any(one.verdict.kind == "damaged" for one in checked))


if __name__ == "__main__":
    log.safe_streams()
    sys.exit(main(sys.argv[1:]))
