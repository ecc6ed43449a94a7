"""train_network.py, with every step's averaged gradients kept for each process in ``GRADIENTS/<rank>.pt``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from library.train import loop
from library.train.run import main

kept: list[torch.Tensor] = []
synchronise = loop.synchronise_gradients


def recording(session, processes):
    synchronise(session, processes)
    kept.append(torch.cat([parameter.grad.reshape(-1) for parameter in session.network.get_trainable_params()]))


if __name__ == "__main__":
    loop.synchronise_gradients = recording
    code = main()
    torch.save(torch.stack(kept), Path(os.environ["GRADIENTS"]) / f"{os.environ['RANK']}.pt")
    sys.exit(code)
