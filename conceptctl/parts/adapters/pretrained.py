"""Learning on the base although more was learned since: for methods that merge what was learned apart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conceptctl.learning.method import Adapter, ParameterGroups, Task, Trainable
from conceptctl.learning.weights import Deltas


class OnPretrained(nn.Module):
    """An adapter over the base: its deltas are what leads back to the base, and its own on top."""

    def __init__(self, own: Adapter, task: Task) -> None:
        """Take an adapter of the task's targets."""
        super().__init__()
        self.own = own
        back = task.to_base().stacks
        self._paths = tuple(back)
        for index, stack in enumerate(back.values()):
            # It follows from the store, and is no state of the training.
            self.register_buffer(f"back_{index}", stack, persistent=False)

    def forward(self, generator: torch.Generator) -> Deltas:
        """The deltas of a training step."""
        return self._on_base(self.own(generator))

    def folded(self) -> Deltas:
        """What turns the model of now into the base with this concept alone."""
        return self._on_base(self.own.folded())

    def groups(self) -> ParameterGroups:
        """What trains, and how fast."""
        return self.own.groups()

    def measures(self) -> Mapping[str, Tensor]:
        """Scalars worth watching."""
        return self.own.measures()

    def _on_base(self, deltas: Deltas) -> Deltas:
        if not self._paths:
            return deltas
        back = dict(zip(self._paths, self.buffers(recurse=False), strict=True))
        return Deltas({paths: back[paths] + stack for paths, stack in deltas.stacks.items()})


def own_adapter(trainable: Trainable) -> Adapter:
    """The adapter itself, without what leads back to the base."""
    assert isinstance(trainable.adapter, OnPretrained)
    return trainable.adapter.own
