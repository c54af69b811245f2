"""The samplers that pictures can be drawn with: short names for diffusers' schedulers and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from conceptctl.errors import UsageError


@dataclass(frozen=True)
class Solver:
    """A way through the noise."""

    title: str
    """What A1111 calls it, and pictures' metadata."""
    scheduler: str
    """diffusers' class."""
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What of its configuration makes it this one."""


_NO_KARRAS = {"use_karras_sigmas": False}
_KARRAS = {"use_karras_sigmas": True}
_ODE = {"algorithm_type": "dpmsolver++"}
_SDE = {"algorithm_type": "sde-dpmsolver++"}

SAMPLERS: Mapping[str, Solver] = MappingProxyType(
    {
        "ddim": Solver("DDIM", "DDIMScheduler"),
        "pndm": Solver("PLMS", "PNDMScheduler"),
        "euler": Solver("Euler", "EulerDiscreteScheduler", _NO_KARRAS),
        "euler-a": Solver("Euler a", "EulerAncestralDiscreteScheduler"),
        "heun": Solver("Heun", "HeunDiscreteScheduler", _NO_KARRAS),
        "dpm++-2m": Solver("DPM++ 2M", "DPMSolverMultistepScheduler", _ODE | _NO_KARRAS),
        "dpm++-2m-karras": Solver("DPM++ 2M Karras", "DPMSolverMultistepScheduler", _ODE | _KARRAS),
        "dpm++-2m-sde": Solver("DPM++ 2M SDE", "DPMSolverMultistepScheduler", _SDE | _NO_KARRAS),
        "dpm++-2m-sde-karras": Solver("DPM++ 2M SDE Karras", "DPMSolverMultistepScheduler", _SDE | _KARRAS),
        "unipc": Solver("UniPC", "UniPCMultistepScheduler", _NO_KARRAS),
        "lcm": Solver("LCM", "LCMScheduler"),
    }
)
"""By the name that a user gives."""
_OF_LATENTS = {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
"""What holds for latent diffusion and is no scheduler's own default: taken where the base's configuration is silent."""


def check_sampler(name: str) -> str:
    """Return the key in `SAMPLERS` of what a user calls it: by its name, or by A1111's.

    Raises:
        UsageError: There is none of that name.
    """
    plain = "-".join(name.casefold().split())
    titles = {"-".join(solver.title.casefold().split()): key for key, solver in SAMPLERS.items()}
    if found := plain if plain in SAMPLERS else titles.get(plain):
        return found
    near = get_close_matches(plain, SAMPLERS, n=2)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"there is no sampler {name!r}", hint=f"{meant}{', '.join(SAMPLERS)}")


def make_scheduler(own: Any, name: str, steps: int) -> Any:
    """Make a scheduler of a sampler's kind for a base.

    Args:
        own: The base's scheduler, whose noise schedule and prediction type hold.
        name: One of `SAMPLERS`.
        steps: How many steps it is to take.

    Raises:
        UsageError: The sampler cannot draw with this base, or not in so many steps.
    """
    import diffusers

    if "beta_schedule" not in own.config:
        raise UsageError("this base is drawn with its own sampler only", hint="without --sampler")
    solver = SAMPLERS[name]
    silent = {key: value for key, value in _OF_LATENTS.items() if key not in own.config}
    try:
        made = getattr(diffusers, solver.scheduler).from_config(own.config, **silent, **solver.options)
        # What it cannot do it says here, before anything is drawn.
        made.set_timesteps(steps)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(
            f"{name} cannot draw in {steps} steps on this base: {str(error).rstrip('.')}",
            hint="another --sampler, or other --steps",
        ) from error
    return made


def title_of(scheduler: Any) -> str:
    """What A1111 calls a diffusers scheduler; diffusers' own name, shortened, where it knows none."""
    kind = type(scheduler).__name__
    for solver in SAMPLERS.values():
        set_so = all(scheduler.config.get(key, value) == value for key, value in solver.options.items())
        if solver.scheduler == kind and set_so:
            return solver.title
    return kind.removesuffix("Scheduler")
