"""Writes the captions of a folder's pictures into a metadata file (for --in_json), with kohya's flags.

    python finetune/merge_captions_to_metadata.py FOLDER meta.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.dataset import kohya_scripts
from library.util import command

if __name__ == "__main__":
    sys.exit(command.run(kohya_scripts.merge_parser(".caption"), lambda args: kohya_scripts.merge(args, "caption")))
