"""Writes pictures anew, scaled down to one or more sizes.

    python tools/resize_images_to_resolution.py FROM TO --max_resolution 1024x1024,512x512

A picture keeps its proportions and gets at most the area of each size; NAME.jpg becomes NAME+1024x1024.jpg.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.data import shrink_folder
from library.lorafile import command


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("src_img_folder", help="the folder of pictures")
    parser.add_argument("dst_img_folder", help="the folder to write to")
    parser.add_argument("--max_resolution", default="512x512,384x384,256x256,128x128", help="sizes, WIDTHxHEIGHT with commas")
    parser.add_argument("--divisible_by", type=int, default=1, help="cut both sides to a multiple of this")
    parser.add_argument("--interpolation", choices=["area", "cubic", "lanczos4", "nearest", "linear", "box"],
                        help="how pictures are scaled; by area if omitted")
    parser.add_argument("--save_as_png", action="store_true", help="write .png whatever the pictures are")
    parser.add_argument("--copy_associated_files", action="store_true", help="copy captions and the like beside each")
    return parser


def work(args: argparse.Namespace) -> None:
    """Scale, cut, write."""
    request = shrink_folder.Request.of((args.src_img_folder, args.dst_img_folder), args.max_resolution, args.divisible_by,
                                       args.interpolation, (args.save_as_png, args.copy_associated_files))
    command.tell(f"{args.dst_img_folder}: {shrink_folder.shrink_all(request)} pictures written")


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
