"""All that is decided about a run before its model is loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptctl.errors import UsageError
from conceptctl.presets import Preset, preset_of
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.learn.images import check_pictures, sizes_of
from conceptctl.workflows.learn.plan import Plan, is_described, plain_prompt, planned
from conceptctl.workflows.learn.request import Request, Watch, precision_of

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from conceptctl.images.gate import Checked
    from conceptctl.learning.method import Method
    from conceptctl.metrics.features import FeatureExtractor


@dataclass(frozen=True)
class Prepared:
    """All that is decided before the model is loaded."""

    store: Store
    head: Generation
    request: Request
    preset: Preset
    method: Method
    accelerator: Accelerator
    precision: str
    checked: Checked
    plan: Plan
    extractor: FeatureExtractor | None
    """What makes the features that are kept, and describes pictures; None where there is none and none is needed."""
    described: bool
    watch: Watch

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        found: torch.device = self.accelerator.device
        return found

    @property
    def to_do(self) -> Plan:
        """The plan without what will not be done: nothing is drawn where nothing makes features of it."""
        return self.plan if self.extractor else dataclasses.replace(self.plan, reference_samples=0, compared=0)

    @property
    def prompt(self) -> str:
        """What the concept is asked for by."""
        return plain_prompt(self.method, self.request.name, self.request.class_word)


def prepare(
    store: Store, head: Generation, request: Request, preset: Preset, method: Method, device: str, watch: Watch
) -> Prepared:
    """Look at the pictures, and find everything that a run needs and that may not be there."""
    from conceptctl.diffusion.models import choose_device
    from conceptctl.learning.processes import everywhere, make_accelerator
    from conceptctl.workflows import extractor

    chosen = choose_device(device)
    precision = precision_of(request, str(chosen))
    accelerator = make_accelerator(chosen, precision)
    # Said by all of them, after they have met: a process that waits for one that ended is not told of it.
    if method.config.batch_size < accelerator.num_processes:
        raise UsageError(
            f"a batch of {method.config.batch_size} cannot be spread over {accelerator.num_processes} processes",
            hint="a larger --batch-size, or fewer processes",
        )
    # The others have met the main process now, which holds the right to write: the head stays what it is.
    head = head if accelerator.is_main_process else store.head()
    checked = check_pictures(store, head, request, watch)
    plan = planned(request, preset, method, checked, sizes_of(store, head), str(accelerator.device), precision)
    if chosen.type == "cpu" and preset_of(head.base).learn.slow_on_cpu:
        watch.warn("a base of this size takes hours on a CPU; with a GPU: --device cuda")
    described = is_described(request, preset, method, checked)
    found: FeatureExtractor | None = None
    # One that is not there is said now, and not when everything is drawn or learned. The main process fetches it.
    with accelerator.main_process_first():
        if described or request.feature_extractor is not None:
            found = extractor.open_extractor(head.base, request.feature_extractor, accelerator.device)
        elif plan.reference_samples > 0:
            found = extractor.find_extractor(head.base, watch.warn)
    if not everywhere(accelerator, found is not None):
        found = None
    return Prepared(
        store, head, request, preset, method, accelerator, precision, checked, plan, found, described, watch
    )
