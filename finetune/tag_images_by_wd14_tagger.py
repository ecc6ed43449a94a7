"""Tags pictures with a WD14 tagger (ONNX), with kohya's flags. Captions that are replaced are kept in _undo.

    python finetune/tag_images_by_wd14_tagger.py FOLDER --onnx --thresh 0.35 --remove_underscore
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.dataset import kohya_scripts, tag_command
from library.dataset.journal import carry_out, write_whole
from library.util import command
from library.util.records import Problem, UserError

ELSEWHERE = ("model_threshold", "use_quality_tags", "use_quality_tags_as_last_tag")
"""Flags of a tagger of another make, which is not read here."""


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kohya_scripts.add_folder(parser, ".txt")
    tag_command.add_tagging(parser)
    parser.add_argument("--onnx", action="store_true", help="taggers always run as ONNX here; TensorFlow is not needed")
    parser.add_argument("--output_path", help="write the tags into this .json or .jsonl instead of caption files")
    parser.add_argument("--model_threshold", type=float, help="not here: for taggers with tags for models")
    parser.add_argument("--use_quality_tags", action="store_true", help="not here: for taggers with quality tags")
    parser.add_argument("--use_quality_tags_as_last_tag", action="store_true", help="not here: for taggers with quality tags")
    return parser


def work(args: argparse.Namespace) -> None:
    """Tag all pictures, and write."""
    for name in ELSEWHERE:
        if getattr(args, name):
            raise UserError(Problem(f"--{name}", "WD14 taggers have no such tags.", "Leave it out."))
    pictures = kohya_scripts.pictures(args)
    found = tag_command.tag_all(args, pictures)
    texts = {}
    for picture, tags in found.items():
        file = picture.with_suffix("." + args.caption_extension.lstrip("."))
        texts[picture] = file, tag_command.caption_text(tags, file, args)
        if args.debug:
            command.tell(f"{picture}: {texts[picture][1]}")
    if args.output_path:
        write_list(Path(args.output_path), {str(picture): text for picture, (_, text) in texts.items()})
    else:
        carry_out(Path(args.train_data_dir), "tag", tag_command.changes(texts))
    command.tell("done!")


def write_list(file: Path, texts: dict[str, str]) -> None:
    """The tags as a metadata file for --in_json: JSON, or a line a picture."""
    if file.suffix.lower() == ".jsonl":
        content = "".join(json.dumps({"image_path": path, "tags": text}, ensure_ascii=False) + "\n" for path, text in texts.items())
    else:
        content = json.dumps({path: {"tags": text} for path, text in texts.items()}, ensure_ascii=False, indent=2)
    write_whole(file, content.encode("utf-8"))


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
