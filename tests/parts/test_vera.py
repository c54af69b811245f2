"""VeRA's deltas against plain numpy, and what every training must draw alike."""

import numpy as np
import torch

from conceptctl.parts.adapters.vera import DOWN_START, Vera

SHAPES = {"a": (5, 7), "b": (9, 7), "c": (5, 7), "d": (5, 4)}


def made(rank=6, seed=0):
    return Vera(SHAPES, rank, 1e-3, generator=torch.Generator().manual_seed(seed))


def test_the_delta_is_two_vectors_over_projections_that_all_share():
    adapter = made(rank=5)
    assert not any(delta.any() for delta in adapter.folded().values())
    with torch.no_grad():
        for scales in (*adapter.up_scales, *adapter.down_scales):
            scales.normal_(generator=torch.Generator().manual_seed(1))
    vectors = {
        path: (b.detach().numpy(), d.detach().numpy())
        for paths, ups, downs in zip(adapter.shapes, adapter.up_scales, adapter.down_scales, strict=True)
        for path, b, d in zip(paths, ups, downs, strict=True)
    }
    for path, (rows, columns) in SHAPES.items():
        b, d = vectors[path]
        up, down = adapter.up.numpy()[:rows], adapter.down.numpy()[:, :columns]
        wanted = np.diag(b) @ up @ np.diag(d) @ down
        np.testing.assert_allclose(adapter.folded()[path].detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_projections_are_the_same_for_every_task_and_frozen():
    first, second = made(seed=1), made(seed=2)
    assert torch.equal(first.up, second.up)
    assert torch.equal(first.down, second.down)
    trained = {id(each) for group in first.groups() for each in group["params"]}
    assert trained == {id(each) for each in first.parameters()}
    assert not first.up.requires_grad
    assert not any(name in ("up", "down") for name in first.state_dict())


def test_vectors_begin_as_the_paper_has_it_and_are_no_longer_than_what_they_are_of():
    adapter = made(rank=256)
    # The longer side of the smallest target.
    assert {each.shape[1] for each in adapter.down_scales} == {5}
    assert all((each == DOWN_START).all() for each in adapter.down_scales)
    assert not any(each.any() for each in adapter.up_scales)


def test_projections_have_kaimings_variance():
    adapter = Vera({"a": (300, 400)}, 200, 1e-3, generator=torch.Generator())
    assert abs(adapter.down.var().item() * 400 - 2) < 0.1
    assert abs(adapter.up.var().item() * 200 - 2) < 0.1


def test_factors_of_the_delta_are_of_the_projections_rank():
    adapter = made(rank=3)
    with torch.no_grad():
        for scales in (*adapter.up_scales, *adapter.down_scales):
            scales.normal_(generator=torch.Generator().manual_seed(1))
    deltas = adapter.folded()
    for paths, known in deltas.products.items():
        assert known.down.shape[1] == known.up.shape[2] == 3
        assert torch.equal(known.up @ known.down, deltas.stacks[paths])
    assert deltas.products.keys() == deltas.stacks.keys()
