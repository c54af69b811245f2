import os
from pathlib import Path

# Hypothesis keeps what it knows beside the other caches, and not in the tree.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(__file__).parents[1] / ".venv/.cache/hypothesis"))
