"""Tells what a LoRA file is and how healthy its layers are, or how two files differ.

    python tools/lora_info.py FILE.safetensors
    python tools/lora_info.py FILE.safetensors --picture health.png --json
    python tools/lora_info.py FILE.safetensors --compare OTHER.safetensors

The exit code is 1 where a layer holds values that are no numbers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, examine, examine_show, file
from library.util.records import Problem, UserError


def setup_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", help="the LoRA file, of any kind and format")
    parser.add_argument("--compare", metavar="OTHER", help="tell how the layers of another file differ")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    parser.add_argument("--picture", metavar="PNG", help="draw norm and effective rank of every block")
    command.add_device(parser)
    return parser


def compare(one: file.LoraFile, other: file.LoraFile, as_json: bool) -> None:
    """Print how two files differ."""
    found, only_one, only_other = examine.differences(one, other)
    if not found:
        raise UserError(Problem("--compare", f"{one.name} and {other.name} have no module in common",
                                "Compare files of one architecture."))
    if as_json:
        command.tell(json.dumps({"modules": [d.__dict__ for d in found], "only_in_first": only_one,
                                 "only_in_second": only_other}))
        return
    command.tell(f"{len(found)} common modules, {len(only_one)} only in {one.name}, {len(only_other)} only in {other.name}")
    command.tell(f"direction: cosine {statistics.mean(d.cosine for d in found):.3f} on average "
                 f"({min(d.cosine for d in found):.3f} to {max(d.cosine for d in found):.3f}); strength: "
                 f"{statistics.median(d.ratio for d in found):.3f} of the first's")
    command.tell("furthest apart:")
    for d in sorted(found, key=lambda d: d.cosine)[:10]:
        command.tell(f"  cosine {d.cosine:6.3f}, strength {d.ratio:6.3f}  {d.stem}")


def work(args: argparse.Namespace) -> None:
    """Examine one file, or compare two."""
    lora = file.read(args.file)
    if args.compare:
        compare(lora, file.read(args.compare), args.json)
        return
    report = examine.examine(lora, args.device)
    command.tell(json.dumps(report.as_json(), ensure_ascii=False) if args.json else examine_show.as_text(report))
    if args.picture:
        examine_show.picture(report, args.picture)
    if any(layer.fault == "nan" for layer in report.faults):
        raise UserError(Problem(str(lora.path), "the file holds values that are no numbers (NaN)",
                                "It makes black pictures. Use an earlier save of the run, and a lower learning rate."))


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
