"""Methods that learn on the base and merge, and those that train whole weights: what their increments add up to."""

import dataclasses

import numpy as np
import pytest
import torch

from conceptctl.errors import UsageError
from conceptctl.learning.weights import Deltas
from conceptctl.methods import find_method
from conceptctl.parts.adapters.pretrained import own_adapter
from conceptctl.parts.consolidation.fisher import measured
from tests.methods.bench import Bench, earlier_of
from tests.tiny_pipeline import write_tiny_pipeline

SETTINGS = {"steps": 4, "batch_size": 3, "auxiliary_batch": 1, "learning_rate": 1e-2, "rank": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("base"))


def made(name, **changes):
    found = find_method(name)
    return found(found.configuration(**{**SETTINGS, **changes}))


def named(learned, name, consolidated=False):
    earlier = earlier_of(learned, name * 16)
    return dataclasses.replace(earlier, prompt=f"a photo of a V*{name}", consolidated=consolidated)


def in_turn(folder, method, names="abc"):
    """Benches of tasks after each other, with what the weights have over the base as the store would have it."""
    earlier, total, benches, learned = {}, {}, [], []
    for index, name in enumerate(names):
        bench = Bench(folder, method, change=False, earlier=dict(earlier), seed=index)
        base = {path: module.weight.detach().clone() for path, module in bench.backbone.targets().items()}
        bench.backbone.set_weights({path: base[path] + each for path, each in total.items()})
        back = Deltas.of({path: -each for path, each in total.items()})
        bench.task = dataclasses.replace(bench.task, to_base=lambda back=back: back)
        bench.trainable = method.attach(bench.task)
        benches.append(bench)
        learned.append(bench.learned())
        for path, delta in learned[-1].deltas.items():
            total[path] = total.get(path, 0) + delta.detach()
        earlier[name] = named(learned[-1], name)
    return benches, learned, total


def test_increments_of_lora_merge_add_up_to_the_mean_of_adapters(folder):
    benches, learned, total = in_turn(folder, made("lora-merge"))
    own = [own_adapter(bench.trainable).folded() for bench in benches]
    for path, found in total.items():
        wanted = np.mean([each[path].detach().numpy() for each in own], axis=0)
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)
        assert wanted.any()
    assert [each.contains for each in learned] == [(), ("a" * 16,), ("a" * 16, "b" * 16)]


def test_increments_of_cd_merged_add_up_to_the_merge_of_all(folder):
    """Least squares over each concept's words and everything else, in plain numpy."""
    ridge = 0.03
    benches, learned, total = in_turn(folder, made("cd-merged", merge_ridge=ridge, token_learning_rate=0.3))
    factor = benches[0].task.reference_factor.double().numpy()
    assert all(np.allclose(bench.task.reference_factor.numpy(), factor, atol=1e-6) for bench in benches)
    other = factor @ factor.T
    other = ridge * (other + 1e-4 * other.diagonal().mean() * np.eye(len(other)))
    own = [own_adapter(bench.trainable).folded() for bench in benches]
    words = [bench.task.words(each.tokens) for bench, each in zip(benches, learned, strict=True)]
    # V*NAME, the class's word and the end: nothing before the token, nothing that fills up.
    assert {each.shape for each in words} == {(3, len(factor))}
    words = [each.double().numpy() / 3**0.5 for each in words]
    moment = other + sum(each.T @ each for each in words)
    for path, found in total.items():
        asked = sum(change[path].detach().numpy() @ each.T @ each for change, each in zip(own, words, strict=True))
        np.testing.assert_allclose(found.numpy(), np.linalg.solve(moment, asked.T).T, atol=1e-4)
        assert found.any()
    assert [each.contains for each in learned] == [(), ("a" * 16,), ("a" * 16, "b" * 16)]


@pytest.mark.parametrize("name", ["lora-merge", "cd-merged"])
def test_what_is_merged_trains_on_the_base_whatever_was_learned_since(folder, name):
    method = made(name, scheduler="constant")
    on_base = Bench(folder, method, change=False)
    later = Bench(folder, method)
    # What the later one's weights have over the base is in them, as `learn` puts it there.
    back = later.task.to_base()
    weights = {path: module.weight.detach() - back[path] for path, module in later.backbone.targets().items()}
    later.backbone.set_weights(weights)
    for bench in (on_base, later):
        bench.train()
    ours, theirs = (own_adapter(bench.trainable).folded() for bench in (on_base, later))
    for path in ours:
        torch.testing.assert_close(ours[path], theirs[path], rtol=1e-2, atol=2e-4)
    folded = later.trainable.folded()
    for path, module in on_base.backbone.targets().items():
        torch.testing.assert_close(
            weights[path] + folded[path], module.weight.detach() + theirs[path], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", ["lora-merge", "cd-merged"])
def test_beside_concepts_of_other_methods_the_merge_is_only_of_its_own(folder, name):
    method = made(name)
    _, (first, second), _ = in_turn(folder, method, "ab")
    other = Bench(folder, made("lora"), change=False).learned()
    earlier = {"a": named(first, "a"), "x": named(other, "x")}
    bench = Bench(folder, method, earlier=earlier, seed=1)
    # The same pictures, steps and base as the second task above, but for rounding.
    bench.task = dataclasses.replace(bench.task, to_base=Deltas)
    bench.trainable = method.attach(bench.task)
    found = bench.learned()
    assert found.contains == ("a" * 16,)
    for path, delta in found.deltas.items():
        assert (delta - second.deltas[path]).norm() < 0.05 * delta.norm()
    # Once they stand in weights that were solved for together, nobody knows what is whose.
    solved = {"a": named(first, "a", consolidated=True), "x": named(other, "x")}
    with pytest.raises(UsageError) as caught:
        Bench(folder, method, earlier=solved)
    assert "undo" in caught.value.hint
    Bench(folder, method, earlier={"a": solved["a"]})


def test_whole_weights_train_and_their_increments_stand_alone(folder):
    bench = Bench(folder, made("cd"))
    sizes = {path: module.weight.numel() for path, module in bench.backbone.targets().items()}
    assert sum(each.numel() for each in bench.adapter.parameters()) == sum(sizes.values())
    learned = bench.learned()
    assert (learned.contains, learned.state) == ((), {})
    # No low rank holds it back.
    ranks = [torch.linalg.matrix_rank(delta).item() for delta in learned.deltas.values()]
    assert max(ranks) > SETTINGS["rank"]


def test_the_fisher_matrix_of_whole_weights_is_of_their_shape_and_goes_on(folder):
    method = made("cd-ewc", fisher_decay=0.25, ewc_weight=2.0)
    first = Bench(folder, method, change=False).learned()
    assert {name.partition("/")[0] for name in first.state} == {"fisher_full"}
    assert all(first.state[f"fisher_full/{path}"].shape == delta.shape for path, delta in first.deltas.items())
    bench = Bench(folder, method, earlier={"b": named(first, "b")})
    adapter = measured(bench.trainable)
    assert not adapter.flat().any()
    moved = torch.randn(adapter.flat().shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for change, part in zip(adapter.changes, moved.split([each.numel() for each in adapter.changes]), strict=True):
            change.copy_(part.view_as(change))
    known = np.concatenate([first.state[f"fisher_full/{p}"].numpy().ravel() for ps in adapter.shapes for p in ps])
    wanted = 2.0 / 2 * np.sum(known.astype(np.float64) * moved.double().numpy() ** 2)
    assert bench.method.penalty(None, bench.task, bench.trainable)["ewc"].item() == pytest.approx(wanted, rel=1e-4)
    second = bench.learned()
    own = {
        path: second.state[f"fisher_full/{path}"] - 0.25 * first.state[f"fisher_full/{path}"] for path in sizes(bench)
    }
    assert all((each >= -1e-12).all() for each in own.values())
    assert any(each.any() for each in own.values())
    assert second.contains == ()


def sizes(bench):
    return list(bench.task.shapes)


def test_c_lora_pays_for_what_is_changed_again(folder):
    bench = Bench(folder, made("c-lora", forgetting_weight=3.0))
    with torch.no_grad():
        for up in bench.adapter.up:
            up.normal_(generator=torch.Generator().manual_seed(0))

    class Step:
        deltas = bench.trainable.folded()

    found = bench.method.penalty(Step(), bench.task, bench.trainable)["forgetting"].item()
    deltas = {path: delta.detach().double().numpy() for path, delta in Step.deltas.items()}
    wanted = 3.0 * sum(np.sum((bench.task.change[path].double().numpy() * deltas[path]) ** 2) for path in deltas)
    assert found == pytest.approx(wanted, rel=1e-4)
    first = Bench(folder, made("c-lora"), change=False)
    assert first.method.penalty(Step(), first.task, first.trainable) == {}


def test_c_lora_keeps_off_what_earlier_concepts_changed(folder):
    def overlap(weight):
        bench = Bench(folder, made("c-lora", forgetting_weight=weight, steps=20))
        deltas = bench.learned().deltas
        return sum((bench.task.change[path] * delta.detach()).square().sum().item() for path, delta in deltas.items())

    assert overlap(1e4) < 0.2 * overlap(1e-9)


def test_an_orthogonal_start_is_orthogonal_to_all_that_was_changed(folder):
    method = made("lora-orthogonal", rank=3)
    first = Bench(folder, method, change=False).learned()
    bench = Bench(folder, method, change=False, earlier={"b": named(first, "b")})
    back = Deltas.of({path: -delta.detach() for path, delta in first.deltas.items()})
    adapter = method.attach(dataclasses.replace(bench.task, to_base=lambda: back)).adapter
    for paths, down in zip(adapter.shapes, adapter.down, strict=True):
        for path, rows in zip(paths, down, strict=True):
            assert back[path].norm() > 0
            assert (back[path] @ rows.T).norm() < 1e-3 * back[path].norm()
    assert not any(delta.any() for delta in adapter.folded().values())
