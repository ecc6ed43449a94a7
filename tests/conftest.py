"""For all tests: the repository's folder comes first on the path, and nothing asks a network or opens a window."""

import os
import sys
from pathlib import Path

# Tests run side by side; threads of one that wait for threads of another cost many times what they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
