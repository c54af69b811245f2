"""One Accelerator owns the device, the precision, the accumulation and the processes of a run.

`accelerate launch -m conceptctl ...` begins several processes of one command. All of them do the same, each on its part
of every batch; only the main one writes anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

Found = TypeVar("Found")


def make_accelerator(device: torch.device, precision: str = "no") -> Accelerator:
    """Make the run's Accelerator.

    Args:
        device: Where to compute; of several CUDA processes each takes its own.
        precision: `bf16`, `fp16` or `no`. On a CPU, bf16 multiplies in it and keeps weights in fp32; on a GPU the model
            itself is loaded in what it learns in, and nothing is left to cast.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    # What a run was made with is kept by accelerate for all of the process, which here may hold several runs.
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    elif AcceleratorState._shared_state:
        AcceleratorState._reset_state()
    os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
    if device.index is not None and "LOCAL_RANK" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    on_cpu = device.type == "cpu"
    return Accelerator(cpu=on_cpu, mixed_precision="bf16" if on_cpu and precision == "bf16" else "no")


def casts(accelerator: Accelerator) -> bool:
    """Whether the network multiplies fp32 weights in bf16."""
    return str(accelerator.mixed_precision) == "bf16"


def everywhere(accelerator: Accelerator, found: bool) -> bool:
    """Whether something was found in every process."""
    if accelerator.num_processes == 1:
        return found
    share = accelerator.reduce(torch.tensor(float(found), device=accelerator.device), "mean")
    return bool(share.item() == 1.0)


def part_of(accelerator: Accelerator, count: int) -> slice:
    """The part of so many samples that is this process's: together they are all, and their sizes differ by one."""
    index, processes = accelerator.process_index, accelerator.num_processes
    return slice(count * index // processes, count * (index + 1) // processes)


def agree(accelerator: Accelerator, gradients: Sequence[Tensor], flags: Sequence[bool]) -> list[bool]:
    """Average gradients over processes, in place, and find which flags any process has raised.

    Args:
        accelerator: The run's.
        gradients: Of the same tensors in every process.
        flags: They travel with the gradients: nobody has to ask for them.
    """
    raised = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    together = torch.cat([*(each.flatten().float() for each in gradients), raised])
    *means, marks = torch.split(accelerator.reduce(together, "mean"), [*(g.numel() for g in gradients), len(flags)])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))
    return [bool(mark > 0) for mark in marks.tolist()]


def spread(
    accelerator: Accelerator | None, work: Sequence[Any], do: Callable[[Any], list[Found]]
) -> Iterator[list[Found]]:
    """Do pieces of work, in as many processes as there are, and give every process all results in order.

    Args:
        accelerator: The run's; None for this process alone.
        work: The pieces.
        do: Does one; what it returns travels between processes.

    Yields:
        The results of as many pieces as there are processes, put together.
    """
    processes = 1 if accelerator is None else accelerator.num_processes
    for start in range(0, len(work), processes):
        round_ = work[start : start + processes]
        if accelerator is None or processes == 1:
            yield do(round_[0])
            continue
        from accelerate.utils import gather_object

        index = accelerator.process_index
        # A list of lists: results of one process are told apart from those of the next.
        yield [each for own in gather_object([do(round_[index])] if index < len(round_) else []) for each in own]
