"""Every method that tells classes apart: it learns, only what it says changes, a run that stops goes on."""

import dataclasses
import re

import pytest
import torch

from conceptctl.errors import NotFound
from conceptctl.families import vit
from conceptctl.methods import CLASSIFIERS, METHODS, find_classifier, find_method
from conceptctl.workflows.classification.learner import Learner
from tests.tiny_vit import SIDE, write_tiny_vit

CPU = torch.device("cpu")
PROMPTED = {"l2p", "dual-prompt", "coda-prompt"}
SMALL = {"rank": 2, "batch_size": 4, "learning_rate": 5e-3, "token_learning_rate": 0.05, "embedding": "row",
         "pool_size": 4, "prompt_length": 2, "chosen": 2, "expert_length": 4, "general_layers": 1, "added": 2,
         "forgetting_weight": 1.0}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_vit(tmp_path_factory.mktemp("vit"))


def learner(folder, name):
    found = find_classifier(name)
    known = {each.name for each in dataclasses.fields(found.configuration)}
    config = found.configuration(**{key: value for key, value in SMALL.items() if key in known})
    return Learner(vit.load(str(folder), CPU), found, config, epochs=16, seed=3)


def pictures(number):
    """A class: pictures of one brightness each, which overlaps with that of others."""
    generator = torch.Generator().manual_seed(number)
    brightness = torch.randint(0, 100, (6, 1, 1, 1), generator=generator) + (0, 70, 35, 105)[number]
    noise = torch.randint(0, 40, (6, 3, SIDE, SIDE), generator=generator)
    return (noise + brightness).to(torch.uint8)


def taught(of, task):
    numbers = (2 * task, 2 * task + 1)
    names = [f"class {number}" for number in numbers]
    pixels = torch.cat([pictures(number) for number in numbers])
    return of.learn(names, pixels, [name for name in names for _ in range(6)])


def weights(of):
    return {name: value.clone() for name, value in of.backbone._model.state_dict().items()}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_two_tasks_are_learned_and_what_moves_is_what_the_method_says(folder, name):
    of = learner(folder, name)
    before = weights(of)
    first = taught(of, 0)
    assert first.steps == 48
    accuracy = of.classify(torch.cat([pictures(0), pictures(1)])).argmax(1) == torch.arange(2).repeat_interleave(6)
    assert accuracy.float().mean() > 0.7
    head = of.backbone.token_tables()[vit.HEAD].weight[:2].clone()
    second = taught(of, 1)
    assert torch.equal(of.backbone.token_tables()[vit.HEAD].weight[:2], head)
    assert of.classify(pictures(3)).shape == (6, 4)
    moved = {key for key, value in weights(of).items() if not torch.equal(value, before[key])}
    targets = {path.partition("/")[2] for path in of.backbone.targets()}
    assert moved <= targets
    assert bool(moved) == (name not in {*PROMPTED, "linear-probe"})
    assert (second.kept > 0) == (name in PROMPTED)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_run_that_goes_on_ends_as_a_whole_one(folder, name):
    whole, begun, resumed = (learner(folder, name) for _ in range(3))
    taught(whole, 0)
    taught(whole, 1)
    taught(begun, 0)
    kept = {key: value.clone() for key, value in begun.tensors().items()}
    resumed.restore(kept, begun.names, begun.tasks)
    assert torch.equal(resumed.classify(pictures(1)), begun.classify(pictures(1)))
    taught(resumed, 1)
    expected = whole.classify(pictures(1))
    assert torch.allclose(resumed.classify(pictures(1)), expected, atol=1e-5)
    assert whole.tensors().keys() == resumed.tensors().keys()


def test_rows_of_the_head_begin_as_a_linear_discriminant(folder):
    of = learner(folder, "lora")
    pixels, labels = torch.cat([pictures(0), pictures(1)]), ["a"] * 6 + ["b"] * 6
    attached = of.method(of.config).attach(of._task(of.method(of.config)))
    (rows,) = of._start(attached, ["a", "b"], pixels, labels).values()
    features = of.backbone.all_features(pixels).double()
    means = features.unflatten(0, (2, 6)).mean(1)
    variance = (features - means.repeat_interleave(6, 0)).square().mean()
    for given in features:
        # The log-likelihood of a sphere around each mean, but for what both classes share.
        nearness = -(given - means).square().sum(1) / (2 * variance)
        logits = rows[:, :-1].double() @ given + rows[:, -1].double()
        assert torch.allclose(logits[0] - logits[1], nearness[0] - nearness[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_head_has_a_rate_of_its_own(folder, name):
    of = learner(folder, name)
    method = of.method(of.config)
    *others, head = method.attach(of._task(method)).groups()
    assert head["lr"] == of.config.token_learning_rate == 0.05
    assert name not in PROMPTED or [each["lr"] for each in others] == [of.config.learning_rate]


def test_prompts_learn_by_their_own_loss_too(folder):
    def keys(weight):
        of = learner(folder, "l2p")
        of.config = dataclasses.replace(of.config, key_weight=weight)
        taught(of, 0)
        return of._state["pool/keys"]

    # Keys choose prompts, which has no gradient: all that moves them is that loss.
    start = learner(folder, "l2p")
    attached = start.method(start.config).attach(start._task(start.method(start.config)))
    assert torch.equal(keys(0.0), attached.prompts.pool.keys)
    assert not torch.equal(keys(0.5), attached.prompts.pool.keys)


def test_the_name_is_the_files_and_the_papers_place_is_said():
    for name in CLASSIFIERS:
        found = find_classifier(name)
        module = re.sub(r"\W+", "_", name)
        assert found.name == name
        assert CLASSIFIERS[name] == f"{module}:{found.__name__}"
        assert found.paper


def test_what_learns_something_else_is_refused_with_what_there_is():
    with pytest.raises(NotFound, match="tells classes") as caught:
        find_method("l2p")
    assert "ti++" in caught.value.hint
    with pytest.raises(NotFound, match="draw concepts") as caught:
        find_classifier("dsc")
    assert "coda-prompt" in caught.value.hint
    with pytest.raises(NotFound, match="no method 'none'"):
        find_classifier("none")
    assert set(CLASSIFIERS) - set(METHODS) == {*PROMPTED, "fine-tuning", "linear-probe"}
