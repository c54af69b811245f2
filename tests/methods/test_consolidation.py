"""EWC, EWC-DC and DSC: their equations against plain numpy, and what they do from task to task."""

import dataclasses

import numpy as np
import pytest
import torch

from conceptctl.errors import UsageError
from conceptctl.learning.loop import Listener
from conceptctl.learning.weights import Deltas
from conceptctl.methods import find_method
from conceptctl.parts.adapters.measured import Measured
from conceptctl.parts.consolidation.dc_scores import concept_subset, contrast, dc_log_scores
from conceptctl.parts.consolidation.distillation import dsc_loss
from tests.methods.bench import Bench, earlier_of
from tests.tiny_pipeline import write_tiny_pipeline

SETTINGS = {"steps": 10, "batch_size": 3, "auxiliary_batch": 1, "learning_rate": 1e-2, "rank": 4}
VERA = ("vera", "vera-ewc", "vera-ewc-dc")
CONTINUING = ("ewc", "ewc-dc", "dsc", "dsc-ewc", "dsc-ewc-dc", *VERA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("base"))


def made(name, **changes):
    found = find_method(name)
    return found(found.configuration(**SETTINGS, **changes))


def two_tasks(folder, method, teacher=None):
    first = Bench(folder, method, change=False).learned()
    return first, Bench(folder, method, earlier={"bob": earlier_of(first, "0" * 16, teacher)})


@pytest.mark.parametrize("name", CONTINUING)
def test_increments_add_up_to_the_one_adapter(folder, name):
    """W_t - W_{t-1} = A_t B_t - A_{t-1} B_{t-1}, and what is kept are A_t and B_t."""
    first, bench = two_tasks(folder, made(name))
    assert all(not delta.any() for delta in bench.trainable.folded().values())
    second = bench.learned()
    for path, delta in second.deltas.items():
        torch.testing.assert_close(first.deltas[path] + delta, product(bench, second.state, path), rtol=0, atol=1e-6)
    assert any(delta.any() for delta in second.deltas.values())
    for paths, known in second.deltas.products.items():
        # One A for both of VeRA's: a difference of no higher rank.
        torch.testing.assert_close(known.up @ known.down, second.deltas.stacks[paths], rtol=0, atol=1e-6)
    assert second.deltas.products.keys() == second.deltas.stacks.keys()
    assert (first.contains, second.contains) == ((), ("0" * 16,))


def product(bench, state, path):
    """What the kept factors of one target make."""
    if f"up/{path}" in state:
        return state[f"up/{path}"] @ state[f"down/{path}"]
    rows, columns = bench.task.shapes[path]
    up, down = bench.adapter.up[:rows], bench.adapter.down[:, :columns]
    return torch.diag(state[f"vera_up/{path}"]) @ up @ torch.diag(state[f"vera_down/{path}"]) @ down


@pytest.mark.parametrize("name", CONTINUING)
def test_an_adapter_of_another_rank_cannot_go_on(folder, name):
    first = Bench(folder, made(name), change=False).learned()
    method = find_method(name)
    other = method(method.configuration(**{**SETTINGS, "rank": 3}))
    with pytest.raises(UsageError) as caught:
        Bench(folder, other, earlier={"bob": earlier_of(first, "0" * 16)})
    assert "--rank" in caught.value.hint


@pytest.mark.parametrize("name", ["ewc", "ewc-dc", "dsc", "vera-ewc-dc"])
def test_the_token_stays_while_importance_is_measured_and_while_it_is_consolidated(folder, name):
    _, bench = two_tasks(folder, made(name))
    rows = {}

    def begin(phase, steps, done):
        rows[phase] = []

    def report(_):
        rows[list(rows)[-1]].append(bench.trainable.tokens()["text_encoder"].detach().clone())

    bench.train(listener=Listener(phase=begin, report=report, report_steps=1))
    learning, later = rows.values()
    assert not torch.equal(learning[0], learning[-1])
    assert len(later) == 2
    assert all(torch.equal(learning[-1], row) for row in later)


@pytest.mark.parametrize("name", ["ewc", "ewc-dc", "vera-ewc", "cd-ewc"])
def test_fisher_is_the_mean_of_squared_gradients_and_a_running_average(folder, name, monkeypatch):
    gradients = []
    add = Measured.add_squares

    def kept(self):
        gradients.append(torch.cat([each.grad.flatten().clone() for each in self.factors]))
        add(self)

    monkeypatch.setattr(Measured, "add_squares", kept)
    method = made(name, fisher_decay=0.25)
    first = Bench(folder, method, change=False)
    learned = first.learned()
    own = torch.stack(gradients).square().mean(dim=0)
    torch.testing.assert_close(flat_fisher(first, learned), own)
    assert len(gradients) == 2  # a fifth of the steps
    gradients.clear()
    second = Bench(folder, method, earlier={"bob": earlier_of(learned, "0" * 16)})
    found = flat_fisher(second, second.learned())
    torch.testing.assert_close(found, 0.25 * own + 0.75 * torch.stack(gradients).square().mean(dim=0))


def test_fisher_squares_gradients_before_a_steps_portions_are_averaged(folder):
    bench = Bench(folder, made("ewc", accumulation=3), change=False)
    phases = bench.method.phases(bench.task, bench.trainable)
    assert [phase.schedule.accumulation for phase in phases] == [3, 1]


def flat_fisher(bench, learned):
    kinds = [(kind, paths) for kind in bench.adapter.state_kinds() for paths in bench.adapter.shapes]
    return torch.cat([learned.state[f"{kind}/{path}"].flatten() for kind, paths in kinds for path in paths])


def test_a_task_that_measures_nothing_keeps_what_earlier_ones_need(folder):
    first, bench = two_tasks(folder, made("dsc"))
    assert not any(name.startswith("fisher") for name in bench.learned().state)
    first = Bench(folder, made("ewc"), change=False).learned()
    second = Bench(folder, made("dsc"), earlier={"bob": earlier_of(first, "0" * 16)}).learned()
    fisher = {name: value for name, value in first.state.items() if name.startswith("fisher")}
    assert fisher
    assert all(torch.equal(second.state[name], value) for name, value in fisher.items())


def test_the_penalty_is_the_distance_weighted_by_the_fisher_matrix(folder):
    _, bench = two_tasks(folder, made("ewc", ewc_weight=3.0))
    adapter = bench.adapter
    assert bench.method.penalty(None, bench.task, bench.trainable)["ewc"].item() == 0
    with torch.no_grad():
        for factor in adapter.factors:
            factor.add_(0.1 * torch.randn(factor.shape, generator=torch.Generator().manual_seed(0)))
    moved = adapter.flat().detach().numpy() - adapter.start.numpy()
    wanted = 1.5 * np.sum(adapter.fisher.numpy() * moved**2)
    assert bench.method.penalty(None, bench.task, bench.trainable)["ewc"].item() == pytest.approx(wanted, rel=1e-5)
    first = Bench(folder, made("ewc"), change=False)
    assert first.method.penalty(None, first.task, first.trainable) == {}


def test_what_earlier_tasks_need_moves_less(folder):
    def moved(weight):
        _, bench = two_tasks(folder, made("ewc", ewc_weight=weight))
        bench.train()
        return (bench.adapter.fisher * (bench.adapter.flat().detach() - bench.adapter.start).square()).sum().item()

    assert moved(1e8) < 0.1 * moved(0.0)


def test_scores_are_the_softmax_of_negative_errors():
    errors = np.array([[0.2, 0.5, 0.3], [0.4, 0.1, 0.9]])
    powers = np.exp(-errors / 0.1)
    wanted = np.log(powers / powers.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(dc_log_scores(torch.tensor(errors), 0.1).numpy(), wanted, rtol=1e-9)
    # Eq. 5: H of the own class is added, and that of every other taken away.
    np.testing.assert_allclose(
        contrast(torch.tensor(wanted), 1).numpy(), -wanted[:, 1] + wanted[:, 0] + wanted[:, 2], rtol=1e-9
    )


def test_of_scores_that_are_all_alike_the_contrast_stays_and_the_distillation_goes():
    """What `docs/reference/ewc-equations.md` says of temperatures far above the differences of errors."""
    errors = torch.tensor([[0.2, 0.203, 0.199, 0.201]], dtype=torch.float64, requires_grad=True)
    tau, own, k = 10.0, 1, 4
    contrast(dc_log_scores(errors, tau), own).sum().backward()
    wanted = np.full(k, -1 / (k - 1))
    wanted[own] = 1
    np.testing.assert_allclose(errors.grad[0], 2 / tau * (1 - 1 / k) * wanted, rtol=1e-2)
    errors.grad = None
    told = dc_log_scores(torch.tensor([[0.203, 0.2, 0.201, 0.199]], dtype=torch.float64), tau / 20).exp()
    (-(told * dc_log_scores(errors, tau)).sum()).backward()
    assert errors.grad.abs().max() < 1e-2 / tau


@pytest.mark.parametrize("k", [2, 5])
def test_of_scores_that_are_sure_the_contrast_grows_with_the_number_of_classes(k):
    """What the same page says of temperatures far below the differences of errors: why F grows with k."""
    errors = torch.tensor([[0.2] + [0.3] * (k - 1)], dtype=torch.float64, requires_grad=True)
    tau = 0.01
    contrast(dc_log_scores(errors, tau), 0).sum().backward()
    wanted = np.full(k, -1 / (k - 1))
    wanted[0] = 1
    np.testing.assert_allclose(errors.grad[0], (k - 1) / tau * wanted, rtol=1e-2)


def test_the_subset_is_the_prior_the_own_concept_and_earlier_ones_at_random(folder):
    _, bench = two_tasks(folder, made("ewc-dc"))
    many = dataclasses.replace(
        bench.task,
        earlier=[dataclasses.replace(bench.task.earlier[0], prompt=f"a photo of a V*c{i}") for i in range(9)],
    )
    generator = torch.Generator().manual_seed(0)
    drawn = [concept_subset(many, 5, generator) for _ in range(60)]
    assert {own for _, own in drawn} == {1}
    for prompts, _ in drawn:
        assert prompts[:2] == ["a photo of a cat", "a photo of a V*alice"]
        assert len(prompts) == len(set(prompts)) == 5
    assert len({prompt for prompts, _ in drawn for prompt in prompts[2:]}) == 9
    nameless = dataclasses.replace(many, prior_prompt="")
    prompts, own = concept_subset(nameless, 3, generator)
    assert (prompts[own], len(prompts)) == ("a photo of a V*alice", 3)
    # With two an earlier concept takes the place of the prior one, but for a first task, which has none.
    prompts, own = concept_subset(many, 2, generator)
    assert (prompts[own], len(prompts)) == ("a photo of a V*alice", 2) and prompts[1].startswith("a photo of a V*c")
    first = dataclasses.replace(many, earlier=[])
    assert concept_subset(first, 2, generator) == (["a photo of a cat", "a photo of a V*alice"], 1)


class FakeStep:
    """A batch whose predictions are given by prompt, for the student and for teachers."""

    def __init__(self, target, student, teachers):
        self.target, self.student, self.teachers = target, student, teachers
        self.generator = torch.Generator().manual_seed(0)

    def predict(self, prompt=None, *, deltas=None):
        return self.student[prompt] if deltas is None else self.teachers[next(iter(deltas))][prompt]

    def errors(self, predicted):
        return self.differences(predicted, self.target)

    def loss(self):
        return self.errors(self.predict())

    def differences(self, first, second):
        return (first - second).square().flatten(1).mean(dim=1)

    def mean(self, values):
        return values.mean()


def random_predictions(prompts, seed):
    generator = torch.Generator().manual_seed(seed)
    return {prompt: torch.randn(3, 4, 2, 2, generator=generator) for prompt in prompts}


def test_the_loss_of_ewc_dc_is_eq_5(folder):
    _, bench = two_tasks(folder, made("ewc-dc", dc_weight=0.7, dc_temperature=0.3))
    prompts = ["a photo of a cat", "a photo of a V*alice", "a photo of a V*bob"]
    target = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(9))
    # Under None what is predicted under each picture's own prompt.
    student = random_predictions([*prompts, None], 1)
    losses = bench.method.ewc_loss(FakeStep(target, student, {}), bench.task)
    errors = np.stack([((student[p] - target).numpy() ** 2).reshape(3, -1).mean(axis=1) for p in prompts], axis=1)
    powers = np.exp(-errors / 0.3)
    scores = powers / powers.sum(axis=1, keepdims=True)
    entropy = -np.log(scores)
    wanted = 0.7 * (entropy[:, 1] - entropy[:, 0] - entropy[:, 2]).mean()
    denoising = ((student[None] - target).numpy() ** 2).mean()
    assert losses["denoising"].item() == pytest.approx(denoising, rel=1e-5)
    assert losses["dc"].item() == pytest.approx(wanted, rel=1e-5)


def test_the_loss_of_dsc_is_eq_6(folder, monkeypatch):
    old = Deltas({("old",): torch.zeros(1, 1, 1)})
    _, bench = two_tasks(folder, made("dsc", dc_temperature=0.5, teacher_temperature=0.1), teacher=old)
    monkeypatch.setattr(
        type(bench.adapter), "increment_of", lambda self, flat: Deltas({("new",): flat[None, None, :1]})
    )
    prompts = ["a photo of a cat", "a photo of a V*alice", "a photo of a V*bob"]
    target = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(9))
    student, new, before = (random_predictions(prompts, seed) for seed in (1, 2, 3))
    step = FakeStep(target, student, {"new": new, "old": before})
    losses = dsc_loss(step, bench.task, bench.trainable, bench.method.config)

    def scores(predictions, temperature):
        errors = np.stack(
            [((predictions[p] - target).numpy() ** 2).reshape(3, -1).mean(axis=1) for p in prompts], axis=1
        )
        powers = np.exp(-errors / temperature)
        return powers / powers.sum(axis=1, keepdims=True)

    log_student = np.log(scores(student, 0.5))
    entropy = sum(-(scores(teacher, 0.1) * log_student).sum(axis=1).mean() for teacher in (new, before))
    noise = ((student[prompts[1]] - new[prompts[1]]).numpy() ** 2).mean() + (
        (student[prompts[2]] - before[prompts[2]]).numpy() ** 2
    ).mean()
    assert losses["scores"].item() == pytest.approx(0.1 * entropy, rel=1e-5)
    assert losses["noise"].item() == pytest.approx(1.5 * noise, rel=1e-5)


def test_the_student_starts_as_the_tasks_adapter_and_moves_towards_the_old_teacher(folder):
    """With a teacher that undoes what the first task did, and nothing but its noise to keep to."""
    method = made("dsc", dsc_score_weight=0.0, dsc_noise_weight=50.0, consolidation_share=3.0)
    first = Bench(folder, method, change=False).learned()
    undone = Deltas.of({path: -delta.detach() for path, delta in first.deltas.items()})
    bench = Bench(folder, method, earlier={"bob": earlier_of(first, "0" * 16, undone)})
    reports, phases = [], []
    bench.train(listener=Listener(phase=lambda name, *_: phases.append(name), report=reports.append, report_steps=1))
    assert phases == ["learning", "consolidating"]
    noise = [each.losses["noise"] for each in reports if "noise" in each.losses]
    assert np.mean(noise[-5:]) < np.mean(noise[:5])
    assert not torch.equal(bench.adapter.teacher, bench.adapter.flat().detach())


@pytest.mark.parametrize("name", ["dsc-ewc", "dsc-ewc-dc"])
def test_both_consolidations_come_in_the_papers_order(folder, name):
    """Algorithm 4: with the Fisher penalty, then double distillation, then the Fisher matrix of what that left."""
    _, bench = two_tasks(folder, made(name, consolidation_share=0.3))
    phases, losses = [], []
    bench.train(
        listener=Listener(
            phase=lambda name, steps, _: phases.append((name, steps)),
            report=lambda report: losses.append(set(report.losses)),
            report_steps=1,
        )
    )
    assert phases == [("learning", 10), ("consolidating", 3), ("measuring importance", 3)]
    measured = {"loss", "denoising", "dc"} if name == "dsc-ewc-dc" else {"loss", "denoising"}
    assert losses == [{"loss", "denoising", "ewc"}] * 10 + [{"loss", "scores", "noise"}] * 3 + [measured] * 3
    assert bench.adapter.teacher.any()
    # A first task has no teacher of before.
    alone = []
    Bench(folder, made(name), change=False).train(listener=Listener(phase=lambda name, *_: alone.append(name)))
    assert alone == ["learning", "measuring importance"]


def test_a_first_task_is_not_consolidated(folder):
    phases = []
    Bench(folder, made("dsc"), change=False).train(listener=Listener(phase=lambda name, *_: phases.append(name)))
    assert phases == ["learning"]
