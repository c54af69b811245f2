"""What Custom Diffusion's merge takes at the size of Stable Diffusion 1.x: time and peak memory of its last step.

    python benchmarks/merging.py --concepts 50

Concepts are random numbers of the right sizes, each in a file as a store has it. What training itself holds (the
change of every target, the way back to the base) is in the figures; the U-Net is not.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from conceptctl.learning.method import Earlier, Task
from conceptctl.learning.weights import Deltas
from conceptctl.methods.cd_merged import OUTPUTS, WORDS, CdMerged, Config
from conceptctl.store import tensorfile, weights
from conceptctl.workflows.learn.task import StoredState

WIDTH = 768
ROWS = (320,) * 5 + (640,) * 5 + (1280,) * 6
"""Rows of the keys of each cross-attention; values have as many."""
SHAPES = {f"unet/{index}.{which}.weight": (rows, WIDTH) for index, rows in enumerate(ROWS) for which in ("k", "v")}
COUNTED = 5
"""Words of a prompt from its token on: the token, its class in three, the end."""


def kept(folder: Path, index: int) -> Path:
    """Write what one concept keeps for merging."""
    drawn = np.random.default_rng(index)
    state = {f"{OUTPUTS}/{path}": drawn.standard_normal((rows, COUNTED)) * 0.01 for path, (rows, _) in SHAPES.items()}
    state[f"{WORDS}/{next(iter(SHAPES))}"] = drawn.standard_normal((COUNTED, WIDTH))
    token = np.zeros((1, WIDTH), np.float32)
    tensors = weights.concept_tensors({}, token, None, {name: value.astype("<f4") for name, value in state.items()})
    path = folder / f"{index}.safetensors"
    with path.open("wb") as file:
        file.writelines(tensorfile.encode(tensors, {}))
    return path


def earlier(path: Path, index: int) -> Earlier:
    return Earlier(f"{index:016x}", "a photo of a V*x", frozenset({WORDS, OUTPUTS}), lambda: StoredState(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=50, help="how many there are when one more comes")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        paths = [kept(Path(place), index) for index in range(options.concepts)]
        size = paths[0].stat().st_size
        back = Deltas.of({path: torch.randn(shape, generator=generator) * 1e-3 for path, shape in SHAPES.items()})
        words = torch.randn(COUNTED, WIDTH, generator=generator)
        task = Task(
            SHAPES,
            {"text": torch.zeros(1, WIDTH)},
            earlier=[earlier(path, index) for index, path in enumerate(paths)],
            reference_factor=torch.randn(WIDTH, 300, generator=generator),
            to_base=lambda: back,
            words=lambda rows: words,
        )
        method = CdMerged(Config())
        trainable = method.attach(task)
        began, busy = time.perf_counter(), time.process_time()
        learned = method.finish(task, trainable)
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    weights_of_all = sum(delta.numel() for delta in learned.deltas.values())
    print(f"{options.concepts} concepts and one more, {weights_of_all:,} weights")
    print(f"a concept keeps {size / 2**20:.2f} MiB for merging")
    print(f"the merge: {seconds:.1f} s ({cpu:.1f} CPU s), peak memory of the process {peak:.2f} GiB")


if __name__ == "__main__":
    main()
