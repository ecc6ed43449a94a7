"""Train a LoRA for Wan 2.2 5B, with the flags of train_network.py; the base model decides what is trained."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import train_network

setup_parser = partial(train_network.setup_parser, Path(__file__).name)


class Wan5BNetworkTrainer(train_network.NetworkTrainer):
    script = Path(__file__).name


if __name__ == "__main__":
    sys.exit(train_network.main(__file__))
