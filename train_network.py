"""Train a LoRA: kohya's entry script. `python train_network.py --help` shows what may be given."""

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036  (an older Python must be told before it meets what it cannot read)
    sys.exit(f"This trainer needs Python 3.11 or newer; this is Python {sys.version.split()[0]}.")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from library.flags import setup_parser  # noqa: F401  (notebooks import it from here)
from library.train_util import NetworkTrainer, main  # noqa: F401

if __name__ == "__main__":
    sys.exit(main(__file__))
