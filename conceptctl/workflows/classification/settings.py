"""How a method learns classes: its settings, and what it can go on from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conceptctl.errors import UsageError
from conceptctl.families import check_unsupported
from conceptctl.methods import find_classifier
from conceptctl.workflows.learn.request import configured

if TYPE_CHECKING:
    from conceptctl.learning.method import Config, Method
    from conceptctl.presets import Preset
    from conceptctl.store.concept import Record

_STEPS = {"steps", "max_train_steps"}


def settings_of(found: type[Method], preset: Preset, asked: Mapping[str, Any]) -> Config:
    """Make the settings of a method that tells classes apart.

    Args:
        found: The method.
        preset: The base's; what it says of every method is said of those that have it.
        asked: What is set beside it.

    Raises:
        NotFound: There is no such setting.
        UsageError: A number or a word that cannot be meant, or a number of steps or epochs.
    """
    from conceptctl.families import vit

    if _STEPS & set(asked):
        raise UsageError("classes are learned in epochs, not in steps", hint="--epochs 50")
    if "epochs" in asked:
        raise UsageError("epochs are no setting of a method", hint="--epochs 50")
    known = {each.name for each in dataclasses.fields(found.configuration)}
    ours = {name: value for name, value in preset.settings(found.name).items() if name in known}
    config = configured(found, {**ours, **asked})
    check_unsupported(vit.UNSUPPORTED, config)
    # It looks at what settings are beside one another.
    found(config)
    return config


def check_goes_on(found: type[Method], config: Config, records: Sequence[Record]) -> None:
    """Refuse a method that cannot go on from the tasks that are learned.

    Adapters change the transformer, whatever is learned with afterwards. Prompts stand beside a transformer that stays
    as it is: what was learned with some is told apart with these alone.

    Args:
        found: The method of a new task.
        config: Its settings.
        records: Of the tasks so far.

    Raises:
        UsageError: It is another than that of the tasks so far and one of the two learns prompts, or its prompts would
            be of another form.
    """
    if not records or not ({found.name, records[-1].method} & _with_prompts()):
        return
    last = records[-1]
    if last.method != found.name:
        raise UsageError(
            f"the tasks so far were learned with {last.method}, and {found.name} cannot go on from them: prompts go "
            "with a transformer that stays as it is, and one set of prompts serves all tasks",
            hint=f"--method {last.method}, or another store: conceptctl init --store DIR",
        )
    for name in _own(found):
        now, then = getattr(config, name), last.settings.get(name)
        if then is not None and now != then:
            raise UsageError(
                f"{found.name} goes on with the prompts of the tasks so far, whose {name} is {then}, not {now}",
                hint=f"--set {name}={then}",
            )


def _with_prompts() -> set[str]:
    from conceptctl.methods import CLASSIFIERS
    from conceptctl.parts.adapters.prompts import PromptMethod

    return {name for name in CLASSIFIERS if issubclass(find_classifier(name), PromptMethod)}


def _own(found: type[Method]) -> list[str]:
    """The settings that a method has beside those of every method."""
    from conceptctl.learning import method

    every = {each.name for each in dataclasses.fields(method.Config)}
    return [each.name for each in dataclasses.fields(found.configuration) if each.name not in every]
