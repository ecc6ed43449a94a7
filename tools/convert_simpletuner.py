"""Turn SimpleTuner's multidatabackend.json into a data set file for --dataset_config.

    python tools/convert_simpletuner.py multidatabackend.json dataset.toml
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.config.simpletuner import convert


def main(argv: list[str] | None = None) -> int:
    """Read, convert, write whole or not at all; what was left out is printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="multidatabackend.json")
    parser.add_argument("target", type=Path, help="the TOML file to write")
    asked = parser.parse_args(argv)
    try:
        found = convert(json.loads(asked.source.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError) as error:
        print(f"{asked.source} cannot be read: {error}", file=sys.stderr)
        return 1
    if asked.target.exists():
        print(f"{asked.target} exists already; name another file.", file=sys.stderr)
        return 1
    half = asked.target.with_name(asked.target.name + ".tmp")
    half.write_text(found.text, encoding="utf-8")
    os.replace(half, asked.target)
    for line in found.left_out:
        print(f"left out: {line}")
    print(f"wrote {asked.target}: use it as --dataset_config={asked.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
