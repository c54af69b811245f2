"""What every method must keep to, on a tiny pipeline of random weights."""

import dataclasses
import itertools
import math
import re
from functools import cache, partial

import pytest
import torch

from conceptctl.errors import NotFound
from conceptctl.learning.checkpoint import STATE_FORMAT
from conceptctl.learning.loop import Listener
from conceptctl.learning.weights import Deltas, adapted
from conceptctl.methods import CLASSIFIERS, METHODS, find_classifier, find_method
from conceptctl.parts.masks import FORMS
from conceptctl.store import tensorfile, weights
from conceptctl.workflows.learn.stored import as_stored
from tests.methods.bench import Bench, earlier_of
from tests.tiny_pipeline import write_tiny_pipeline

STEPS = 4
PAPERS = {"steps": STEPS, "batch_size": 3, "auxiliary_batch": 1, "learning_rate": 1e-2, "rank": 4}
OURS = {
    "steps": 3,
    "optimizer": "muon",
    "scheduler": "cosine",
    "snr_gamma": 5.0,
    "p2_gamma": 1.0,
    "accumulation": 2,
    "preservation_weight": 0.1,
    "timestep_sampling": "importance",
    "consolidation_share": 0.5,
}
"""Whatever of it a method has; with it a CPU that is fast in bf16 multiplies in that."""
PIPELINES = {
    "epsilon": write_tiny_pipeline,
    "v_prediction": partial(write_tiny_pipeline, prediction_type="v_prediction"),
}
"""One of each family and kind, by what writes it into a folder."""
SETTINGS = [("epsilon", {}), ("v_prediction", OURS)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write(tmp_path_factory.mktemp(kind)) for kind, write in PIPELINES.items()}


@pytest.fixture(params=SETTINGS, ids=["papers", "ours"])
def settings(request):
    return request.param


@pytest.fixture
def folder(folders, settings):
    return folders[settings[0]]


@pytest.fixture(params=METHODS)
def method(request, settings):
    return with_settings(request.param, settings[1])


@pytest.fixture
def precision(settings):
    return "bf16" if settings[1] else "no"


def with_settings(name, changed):
    found = find_method(name)
    known = {each.name for each in dataclasses.fields(found.configuration)}
    return found(found.configuration(**{k: v for k, v in {**PAPERS, **changed}.items() if k in known}))


@dataclasses.dataclass(frozen=True)
class Learned:
    """A task that was learned whole, which tests share and leave as it is."""

    bench: Bench
    ended: object
    kept: object
    reports: list
    before: dict
    """The model before it was learned."""
    start: dict
    """What was attached, before it was learned."""
    after: dict
    """The model just after."""


def learn(bench):
    reports = []
    before = bench.model()
    start = {name: value.clone() for name, value in bench.trainable.state_dict().items()}
    ended = bench.train(listener=Listener(report=reports.append, report_steps=1))
    return Learned(
        bench, ended, bench.method.finish(bench.task, bench.trainable), reports, before, start, bench.model()
    )


@cache
def first_task(folder, method, config, precision):
    return learn(Bench(folder, find_method(method)(config), change=False, precision=precision))


def a_second_task(folder, method, precision="no"):
    """A task after one of the same method."""
    first = first_task(folder, method.name, method.config, precision).kept
    # As a teacher: half of what the first one learned is taken back.
    teacher = type(first.deltas).of({path: -0.5 * delta.detach() for path, delta in first.deltas.items()})
    return Bench(folder, method, earlier={"bob": earlier_of(first, "0" * 16, teacher)}, precision=precision)


@cache
def learned_of(folder, method, config, precision):
    return learn(a_second_task(folder, find_method(method)(config), precision))


@pytest.fixture
def learned(folder, method, precision):
    return learned_of(folder, method.name, method.config, precision)


def test_the_name_is_the_files_and_the_papers_place_is_said():
    for name in METHODS:
        found = find_method(name)
        module = re.sub(r"\W+", "_", name.replace("+", "_plus")).strip("_")
        assert found.name == name
        assert found.__module__ == f"conceptctl.methods.{module}"
        assert METHODS[name] == f"{module}:{found.__name__}"
        assert found.paper


def test_only_what_was_attached_changes(learned):
    before, after = learned.before, learned.after
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    trained = learned.ended.tensors
    assert trained.keys() >= {f"parameter/{name}" for name in learned.start}
    moved = [name for name, value in learned.start.items() if not torch.equal(value, trained[f"parameter/{name}"])]
    assert any(name.startswith("token") for name in moved)
    assert (learned.bench.adapter is None) or any(name.startswith("adapter") for name in moved)


def test_the_same_seed_gives_the_same_result(folder, method, precision, learned):
    again = a_second_task(folder, method, precision).train().tensors
    assert again.keys() == learned.ended.tensors.keys()
    assert all(torch.equal(again[name], value) for name, value in learned.ended.tensors.items())


def test_a_run_that_stops_and_goes_on_ends_where_a_whole_one_does(folder, method, precision, learned):
    ended = learned.ended
    state = None
    # In the first phase, when it is through, in the next one where there is one, and when all is done.
    for stop in sorted({2, method.config.steps, ended.step - 1}):
        state = interrupted(a_second_task(folder, method, precision), state, stop)
        assert state.step == stop
    for last in (state, ended):
        again = a_second_task(folder, method, precision)
        again.train(state=last)
        assert_same(again.method.finish(again.task, again.trainable), learned.kept)


def interrupted(bench, state, after):
    """Go on from a state until so many steps are done, counting those of all phases, and return what was saved."""
    kept, counted = [], itertools.count(1 if state is None else state.step + 1)

    def report(_):
        if next(counted) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.train(state=state, listener=Listener(report=report, save=kept.append, report_steps=1))
    return kept[-1]


def assert_same(found, wanted):
    assert found.contains == wanted.contains
    for ours, theirs in ((found.deltas, wanted.deltas), (found.tokens, wanted.tokens), (found.state, wanted.state)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_is_attached_draws_as_what_is_kept(method, learned):
    bench, kept = learned.bench, learned.kept
    if method.trained_on != "previous":
        # What is merged is not what was attached: `test_merged.py`.
        return
    bench.backbone.set_token(bench.token_ids[0], {table: row.detach() for table, row in kept.tokens.items()})
    condition = bench.backbone.conditions(["a photo of a V*alice"], ()).of_prompt(
        "a photo of a V*alice", torch.arange(2)
    )
    noised = bench.backbone.objective(bench.schedule().noising()).corrupt(
        torch.randn(2, 4, 8, 8), torch.Generator().manual_seed(3)
    )
    unet = bench.backbone.pipeline.unet
    with torch.no_grad():
        with adapted(bench.backbone.targets()) as targets:
            targets.put(bench.trainable.folded())
            attached = unet(noised.inputs, noised.timesteps, condition).sample
        before = {path: module.weight.clone() for path, module in bench.backbone.targets().items()}
        bench.backbone.set_weights({path: before[path] + delta for path, delta in kept.deltas.items()})
        folded = unet(noised.inputs, noised.timesteps, condition).sample
        bench.backbone.set_weights(before)
    assert torch.allclose(attached, folded, rtol=1e-5, atol=1e-6)


def test_a_step_trains_what_is_kept(method, learned):
    """The deltas of a step, of a task after another, are those that are kept in the end: but for masks' noise."""
    bench = learned.bench
    kept = bench.trainable.folded()
    drawn = [bench.trainable.deltas(torch.Generator().manual_seed(seed)) for seed in range(2)]
    assert set(drawn[0]) == set(kept)
    random = any(not torch.equal(drawn[0][path], drawn[1][path]) for path in kept)
    assert random == method.name.startswith("stamina")
    if not random:
        # Of what training began with nothing is left out or counted twice.
        assert all(torch.allclose(drawn[0][path], kept[path], rtol=1e-4, atol=1e-6) for path in kept)


def test_what_is_stored_is_what_draws_from_then_on(method, learned, tmp_path):
    """Whatever form a delta is kept in, the store reads what the model was given, to the bit."""
    shapes, deltas = learned.bench.task.shapes, learned.kept.deltas
    kept, factors = as_stored(learned.kept)
    assert all(torch.allclose(kept.deltas[path], delta, rtol=1e-4, atol=1e-6) for path, delta in deltas.items())
    tensors = weights.delta_tensors(
        {path: factors.get(path) or weights.Delta.of(delta.numpy()) for path, delta in kept.deltas.items()}
    )
    path = tmp_path / "delta.safetensors"
    path.write_bytes(b"".join(tensorfile.encode(tensors, {})))
    read = dict(weights.read_deltas(path, shapes))
    assert set(read) == set(kept.deltas)
    for place, delta in read.items():
        found = torch.zeros(shapes[place])
        found[torch.from_numpy(delta.mask)] = torch.from_numpy(delta.values)
        assert torch.equal(found, kept.deltas[place])
    dense = weights.delta_tensors({path: weights.Delta.of(each.numpy()) for path, each in kept.deltas.items()})
    assert sum(len(each.data) for each in tensors.values()) <= sum(len(each.data) for each in dense.values())
    if method.name in {"lora", "lora-orthogonal", "c-lora"}:
        assert set(factors) == set(kept.deltas)
    if method.name in {"ewc", "dsc", "lora-merge"}:
        # Of twice the rank, which only the larger targets are worth it for.
        assert 0 < len(factors) < len(kept.deltas)


def test_losses_are_finite_and_need_no_earlier_concept(folder, method, precision, learned):
    """Of a first task, and of one after it: all that the phases report, from the first step on."""
    for each in (first_task(folder, method.name, method.config, precision), learned):
        phases = method.phases(each.bench.task, each.bench.trainable)
        assert len(each.reports) == sum(phase.schedule.steps for phase in phases)
        assert all(torch.tensor(list(report.losses.values())).isfinite().all() for report in each.reports)


def test_what_is_kept_is_of_the_targets(learned):
    """Deltas, and a state that the store's gate lets in: fp32, by kind and target, no larger than that is."""
    shapes, deltas = learned.bench.task.shapes, learned.kept.deltas
    assert set(deltas) in (set(), set(shapes))
    assert {path: tuple(delta.shape) for path, delta in deltas.items()}.items() <= shapes.items()
    for name, value in learned.kept.state.items():
        kind, _, path = name.partition("/")
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,31}", kind)
        assert value.dtype == torch.float32
        assert 1 <= value.ndim <= 2
        assert max(value.shape) <= max(shapes[path])
        assert value.numel() <= math.prod(shapes[path])


def test_the_loss_with_deltas_is_that_of_a_model_with_these_in_its_weights(folder, settings):
    bench = Bench(folder, with_settings("stamina", settings[1]))
    # Three steps change little.
    deltas = Deltas.of({path: 100 * delta for path, delta in bench.learned().deltas.items()})
    found, without = bench.denoising_loss(deltas), bench.denoising_loss(Deltas())
    before = {path: module.weight.clone() for path, module in bench.backbone.targets().items()}
    bench.backbone.set_weights({path: before[path] + delta for path, delta in deltas.items()})
    assert found == pytest.approx(bench.denoising_loss(Deltas()), rel=1e-5)
    assert found != pytest.approx(without, rel=1e-4)


def test_several_tokens_are_learned_at_once(folder, method, precision):
    bench = Bench(folder, method, precision=precision, tokens=("alice", "bob"))
    start = bench.trainable.tokens()
    bench.train()
    (before,), (after,) = start.values(), bench.trainable.tokens().values()
    assert after.shape == (2, before.shape[1])
    assert (after != before).any(dim=1).all()
    assert not torch.equal(after[0], after[1])


def test_what_a_state_holds_is_what_its_format_says(folders):
    # Whoever changes what is below has to raise STATE_FORMAT: interrupted runs hold the tensors of before.
    factors = {"up": 3, "down": 3}
    kept = {"squares": 1, "counted": 0, "teacher": 1}
    first = {"first.weight": 3, "first.bias": 2}
    forms = {
        "low-rank": {**first, "rows": 3, "columns": 3, "offset": 3},
        "literal": {**first, "weight": 3, "bias": 2},
        "collapsed": {"table": 3},
        "direct": {"table": 3},
    }
    mlp = {"rows.first.weight": 2, "rows.first.bias": 1, "rows.last.weight": 2, "rows.last.bias": 1}
    assert STATE_FORMAT == 3
    folder = folders["epsilon"]
    assert dimensions(folder, "lora", {}) == {"adapter": factors, "token": {"rows": 2}}
    assert dimensions(folder, "ti++", {}) == {"adapter": {}, "token": mlp}
    assert dimensions(folder, "ti", {}) == {"adapter": {}, "token": {"rows": 2}}
    for name in ("cd", "cd-merged", "cd-ewc"):
        wanted = {"changes": 3, **({"squares": 1, "counted": 0} if name == "cd-ewc" else {})}
        assert dimensions(folder, name, {}) == {"adapter": wanted, "token": {"rows": 2}}
    for name in ("c-lora", "lora-merge", "lora-orthogonal"):
        assert dimensions(folder, name, {}) == {"adapter": factors, "token": {"rows": 2}}
    for name in ("vera", "vera-ewc", "vera-ewc-dc"):
        vectors = {"up_scales": 2, "down_scales": 2, **kept}
        assert dimensions(folder, name, {}) == {"adapter": vectors, "token": {"rows": 2}}
    for name in ("ewc", "ewc-dc", "dsc", "dsc-ewc", "dsc-ewc-dc"):
        assert dimensions(folder, name, {}) == {"adapter": {**factors, **kept}, "token": {"rows": 2}}
    for form in FORMS:
        assert dimensions(folder, "stamina", {"mask": form})["adapter"] == {**factors, **forms[form]}


def dimensions(folder, name, settings):
    found = find_method(name)
    state = Bench(folder, found(found.configuration(steps=STEPS, **settings))).trainable.state_dict()
    held = {"adapter": {}, "token": {}}
    for place, value in state.items():
        part, _, rest = place.partition(".")
        # Which of several stacks it is does not matter here.
        kept = [step for step in rest.split(".") if not step.isdigit() and step not in ("low_rank", "masks", "own")]
        held[part][".".join(kept)] = value.ndim
    return held


def test_an_unknown_method_is_refused_with_those_that_exist():
    with pytest.raises(NotFound) as caught:
        find_method("dreambooth")
    assert "stamina" in caught.value.hint


@pytest.mark.parametrize("name", [*METHODS, *CLASSIFIERS])
def test_a_setting_s_default_is_the_one_that_its_class_says(name):
    """Of two parents that have a setting, a dataclass takes the default of the first, and not of the nearest."""
    found = find_classifier(name) if name in CLASSIFIERS else find_method(name)
    for each in dataclasses.fields(found.configuration):
        assert each.default == getattr(found.configuration, each.name), each.name
