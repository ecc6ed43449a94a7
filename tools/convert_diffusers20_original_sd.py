"""Turns an SD 1, SD 2 or SDXL checkpoint into a diffusers folder, and a folder into a checkpoint.

    python tools/convert_diffusers20_original_sd.py MODEL.safetensors MODEL_FOLDER
    python tools/convert_diffusers20_original_sd.py MODEL_FOLDER MODEL.safetensors --fp16

A name that ends in .safetensors becomes a checkpoint, any other one a folder.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command
from library.lorafile.recast_command import work


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model_to_load", help="checkpoint or diffusers folder (or hub id)")
    parser.add_argument("model_to_save", help="checkpoint (.safetensors) or folder to write")
    parser.add_argument("--v1", action="store_true", help="the model is SD 1; found out by itself, here it is checked")
    parser.add_argument("--v2", action="store_true", help="the model is SD 2; found out by itself, here it is checked")
    parser.add_argument("--unet_use_linear_projection", action="store_true",
                        help="SD 2's U-Net with linear projections, as stabilityai's: it is always written so")
    parser.add_argument("--fp16", action="store_true", help="write in fp16")
    parser.add_argument("--bf16", action="store_true", help="write in bf16")
    parser.add_argument("--float", action="store_true", help="write in fp32")
    parser.add_argument("--save_precision_as", default="no", choices=["fp16", "bf16", "float"],
                        help="precision of what is written; as the model has it without any of these flags")
    parser.add_argument("--epoch", type=int, default=0, help="epoch to write into a checkpoint's metadata")
    parser.add_argument("--global_step", type=int, default=0, help="step to write into a checkpoint's metadata")
    parser.add_argument("--metadata", help='metadata of a checkpoint, as JSON: \'{"modelspec.title": "mine"}\'')
    parser.add_argument("--variant", choices=["fp16", "bf16", "fp32"], help="which variant of a folder's weights to read")
    parser.add_argument("--reference_model", help="diffusers folder or hub id whose scheduler and tokenizers a written folder gets")
    parser.add_argument("--use_safetensors", action="store_true", help="write .safetensors, never pickles: always so")
    return parser


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
