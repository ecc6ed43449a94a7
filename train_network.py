"""Train a LoRA: kohya's entry script. `python train_network.py --help` shows what may be given."""

import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(f"This trainer needs Python 3.11 or newer; this is Python {sys.version.split()[0]}.")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from library.flags import setup_parser  # noqa: E402, F401  (notebooks import it from here)
from library.train.run import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(script=Path(__file__).name))
