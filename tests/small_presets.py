"""The shipped presets with one of them changed, so that a test draws few pictures in few steps."""

import dataclasses
from collections.abc import Callable, Mapping

from conceptctl import presets
from conceptctl.presets import Preset


def shipped_but(name: str, *, steps: int, **takes) -> Callable[[], Mapping[str, Preset]]:
    """Return what is put in the place of `presets.shipped`: of one preset, the steps of a picture and what of `learn`.

    Args:
        name: The preset.
        steps: Denoising steps of a picture.
        takes: Fields of its `learn`.
    """
    plain = presets.shipped()[name]
    sampling = dataclasses.replace(plain.sampling, steps=steps)
    changed = dataclasses.replace(plain, sampling=sampling, learn=dataclasses.replace(plain.learn, **takes))
    everything = {**presets.shipped(), name: changed}
    return lambda: everything
