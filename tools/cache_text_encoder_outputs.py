"""Writes the text encoder outputs of the captions of a data set beside the pictures, for later runs.

    python tools/cache_text_encoder_outputs.py --pretrained_model_name_or_path MODEL --dataset_config DATA.toml

Takes every flag of the training script that --sdxl or --flux names (else of train_network.py); the same data settings must be
given in training for the files to fit.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.train import only_cache


def main(argv: list[str]) -> int:
    """Fill the cache and stop."""
    return only_cache.main(argv, "cache_text_encoder_outputs_to_disk", __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
