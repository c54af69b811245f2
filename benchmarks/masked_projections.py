"""What a step of STAMINA's masked deltas takes without the network: the key and value projections of SD 1.5 alone.

python benchmarks/masked_projections.py                    # CPU seconds of a forward and a backward pass, median
python benchmarks/masked_projections.py --profile          # and which operations take them
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from conceptctl.learning.weights import adapted
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.adapters.masked import Masked
from conceptctl.parts.adapters.masked_deltas import MaskedDeltas
from conceptctl.parts.masks import FORMS
from conceptctl.parts.penalties import sparsity

ROWS = [320] * 10 + [640] * 10 + [1280] * 12
"""Of the 32 projections; each has 768 columns, and sees 77 hidden states."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mask", choices=tuple(FORMS), default="low-rank")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    projections = {f"unet/{index}.weight": nn.Linear(768, rows, bias=False) for index, rows in enumerate(ROWS)}
    shapes = {path: (module.out_features, 768) for path, module in projections.items()}
    low_rank = LowRank(shapes, 16, 5e-4, generator=generator, init_std=0.01)
    adapter = Masked(low_rank, options.mask, 16, 5e-4, 0.5, 1.0, 1.0, generator=generator)
    states = torch.randn(1, 77, 768, requires_grad=True)
    for module in projections.values():
        module.requires_grad_(False)

    with adapted(projections) as weights:

        def step(masked: bool) -> None:
            deltas = adapter(torch.Generator().manual_seed(1)) if masked else None
            if isinstance(deltas, MaskedDeltas):
                weights.put(deltas)
            loss = torch.stack([module(states).square().mean() for module in projections.values()]).sum()
            if isinstance(deltas, MaskedDeltas):
                loss = loss + 1e-3 * sparsity(deltas.densities())
            loss.backward()  # type: ignore[no-untyped-call]
            adapter.zero_grad(set_to_none=True)

        for masked, what in ((False, "the projections"), (True, "with masked deltas")):
            step(masked)
            taken = []
            for _ in range(options.repeats):
                began = time.process_time()
                step(masked)
                taken.append(time.process_time() - began)
            print(f"{what}: {statistics.median(taken):.3f} s")
        if options.profile:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
                step(masked=True)
            print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=30))


if __name__ == "__main__":
    main()
