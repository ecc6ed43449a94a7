"""Writes a HunyuanImage LoRA under ComfyUI's names, or back under kohya's.

    python networks/convert_hunyuan_image_lora_to_comfy.py FILE.safetensors NEW.safetensors
    python networks/convert_hunyuan_image_lora_to_comfy.py FILE.safetensors NEW.safetensors --reverse

Kohya's command; networks/convert_lora.py does the same for every architecture.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, convert_command


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    return convert_command.comfy_parser(__doc__.split("\n")[0])


work = convert_command.to_comfy


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
