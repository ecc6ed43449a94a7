"""Train a slider LoRA from texts alone for SDXL."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import train_network

setup_parser = partial(train_network.setup_parser, Path(__file__).name)


class SdxlLecoNetworkTrainer(train_network.NetworkTrainer):
    script = Path(__file__).name


if __name__ == "__main__":
    sys.exit(train_network.main(__file__))
