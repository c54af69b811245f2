"""One cell in which all concepts are learned at once, from the base to its results."""

from __future__ import annotations

from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from conceptctl.presets import preset_of
from conceptctl.store.store import Store
from conceptctl.workflows import reference_samples
from conceptctl.workflows.bench.cells import STORE, copy_store
from conceptctl.workflows.bench.concept_run import LEARNED, ConceptRun
from conceptctl.workflows.bench.joint import joint_used, learn_jointly, load_joint
from conceptctl.workflows.bench.sequences import Item
from conceptctl.workflows.learn.commit import draft
from conceptctl.workflows.learn.request import make_method

JOINT = "joint.safetensors"
"""What was learned."""


class JointRun(ConceptRun):
    """One run of such a cell: everything is drawn and measured once, at the end."""

    def whole(self) -> None:
        """Learn, draw and measure what is missing."""
        names = [item.name for item in self.items]
        if not self.learned.exists():
            learn_jointly(
                self.store,
                [self.request(item) for item in self.items],
                self.learned,
                describer=self.extractor,
                device=str(self.device),
                tell=lambda done, steps: self.tell(f"{self.cell.name}: step {done} of {steps}", 0),
            )
        load = cache(partial(load_joint, self.store, self.learned, names, str(self.device)))
        for index, item in enumerate(self.items):
            self.tell(f"{self.cell.name}: drawing {item.name}", index)
            self.draw(load, [item], LEARNED)
        self.finish()

    @cached_property
    def store(self) -> Store:
        """A store with the base alone."""
        return copy_store(self.cell.base, self.home / STORE)

    @property
    def learned(self) -> Path:
        """Where what was learned is kept."""
        return self.home / JOINT

    def recipe(self, item: Item) -> reference_samples.Recipe:
        """How a concept's pictures are drawn: as if it had a record."""
        request = self.request(item)
        record = draft(request, make_method(request, preset_of(self.base)), self.store.head())
        return reference_samples.recipe_of(record, self.base)

    def figures(self, item: Item, when: str) -> dict[str, float | None]:
        """A concept's figures; none of a time just after it was learned, for all are learned by the end."""
        return {**super().figures(item, when), "P_mmd": None, "F_mmd": None, "BwT_mmd": None}

    def tasks(self) -> list[dict[str, Any]]:
        """What each concept took."""
        return joint_used(self.store, self.learned, [item.name for item in self.items])
