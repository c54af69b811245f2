"""Deltas that are kept as their factors: smaller, the same numbers everywhere, and a store like any other."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptctl.errors import ImportRefused
from conceptctl.store import factors, folded, tensorfile, weights
from conceptctl.store.factors import Factors, on_grid, smaller
from conceptctl.store.repair import repair
from conceptctl.store.store import Store
from conceptctl.store.tensorfile import Tensor
from conceptctl.store.verify import verify
from conceptctl.workflows.compact import compact, plan_compact
from conceptctl.workflows.export import export_concepts
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.import_concept import import_concept
from conceptctl.workflows.undo import plan_undo, undo
from tests import synthetic

PLACE = "unet/mid_block.attn2.to_k.weight"
"""A weight of 24 x 6."""


def drawn(seed, rows, columns, rank, spread=20.0):
    """Factors of numbers of many sizes, some of them 0."""
    rng = np.random.default_rng(seed)

    def numbers(*shape):
        made = rng.standard_normal(shape) * 2.0 ** rng.uniform(-spread, spread, shape)
        return (made * (rng.random(shape) < 0.9)).astype(np.float32)

    return numbers(rows, rank), numbers(rank, columns)


def exact(made):
    """The product in rational numbers, rounded once."""
    up, down = ([[Fraction(float(each)) for each in row] for row in part] for part in (made.up, made.down.T))
    sums = [[sum((a * b for a, b in zip(row, column, strict=True)), Fraction()) for column in down] for row in up]
    assert all(Fraction(float(each)) == each for row in sums for each in row), "not exact in float64"
    return np.array([[float(each) for each in row] for row in sums]).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 3, 16, 17, 32, 33, 64, 200]))
def test_a_product_is_the_exact_one_rounded_once(seed, rows, columns, rank):
    up, down = drawn(seed, rows, columns, rank)
    made = Factors.of(up, down)
    assert made.is_on_grid
    assert made.product().tobytes() == exact(made).tobytes()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 7, 32, 33, 300]), st.booleans())
def test_rounding_to_a_grid_is_small_and_done_once(seed, rank, rows):
    factor = drawn(seed, 6, 6, rank)[0 if rows else 1]
    made = on_grid(factor, rows=rows)
    assert on_grid(made, rows=rows).tobytes() == made.tobytes()
    bits = min(24, (53 - math.ceil(math.log2(rank))) // 2)
    largest = np.abs(factor).max(axis=1 if rows else 0, keepdims=True).astype(np.float64)
    assert (np.abs(made.astype(np.float64) - factor) <= largest * 2.0**-bits).all()


def test_the_order_of_adding_and_the_program_that_adds_make_no_difference():
    made = Factors.of(*drawn(3, 40, 30, 24))
    wanted = made.product()
    up, down = made.up.astype(np.float64), made.down.astype(np.float64)
    for order in (range(24), range(23, -1, -1)):
        total = np.zeros((40, 30))
        for k in order:
            total += up[:, k : k + 1] * down[k : k + 1]
        assert total.astype(np.float32).tobytes() == wanted.tobytes()
    rounded = sum(made.up[:, k : k + 1] * made.down[k : k + 1] for k in range(24))
    assert rounded.tobytes() != wanted.tobytes()


def test_numbers_at_the_ends_of_fp32():
    tiny, huge = np.float32(1e-45), np.float32(3e38)
    made = Factors.of(np.array([[tiny, huge], [0, 0]]), np.array([[1, 0], [1, huge]], np.float32))
    assert made.is_on_grid
    assert made.product()[0, 0] == huge
    assert np.isinf(made.product()[0, 1]) and not made.product()[1].any()


def test_what_adds_nothing_is_not_kept():
    up, down = drawn(1, 5, 4, 3)
    up[:, 1] = 0
    passing = np.ones((5, 4), bool)
    made = Factors.of(up, down, passing)
    assert made.up.shape == (5, 2) and made.mask is None
    nothing = Factors.of(np.zeros((5, 3), np.float32), down, ~passing)
    assert nothing.up.shape == (5, 1) and nothing.mask is None and not nothing.product().any()


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_form_of_fewer_bytes_is_chosen(density, rank):
    up, down = (part.astype(np.float32) for part in drawn(5, 48, 32, rank, 1.0))
    mask = np.random.default_rng(0).random((48, 32)) < density
    dense = (up @ down) * mask
    found = smaller(up, down, mask, dense)

    def size(delta):
        return sum(len(each.data) for each in weights.delta_tensors({PLACE: delta}).values())

    forms = {"dense": size(weights.Delta.of(dense)), "factors": size(Factors.of(up, down, mask))}
    assert (found is not None) == (forms["factors"] < forms["dense"])
    if found:
        assert found.size == forms["factors"]
        np.testing.assert_allclose(found.product(), dense, rtol=1e-5, atol=1e-5)


def test_more_factors_than_rows_are_never_kept():
    # Of a very flat matrix they are smaller than its entries, and the gate would refuse them.
    up, down = np.ones((64, 65), np.float32), np.ones((65, 10000), np.float32)
    dense = Factors.of(up, down).product()
    assert 4 * (up.size + down.size) < 4 * dense.size + dense.size / 8
    assert smaller(up, down, None, dense) is None
    assert smaller(up[:, :64], down[:64], None, dense) is not None


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_what_is_folded_is_the_base_and_the_product(store, density):
    changes = synthetic.factors(synthetic.TINY, 0, 2, density)
    head = synthetic.learn(store, "alice", 0, rank=2, density=density)
    assert [each.factored for each in head.concepts] == [True]
    path = store.blob(head.concepts[0])
    header = tensorfile.read_header(path)
    assert sorted(weights.places(header)) == sorted(changes)
    assert ("delta/" + PLACE + "/mask" in header.tensors) == (density < 1)
    bare, _ = folded.read(store.layout, dataclasses.replace(head, concepts=()))
    sums, _ = folded.read(store.layout, head)
    start = {place: weights.read_floats(*sums._start[place]) for place in changes}
    for place, change in changes.items():
        delta = change.product()
        assert weights.read_delta(path, header, place, delta.shape).values.tobytes() == delta[delta != 0].tobytes()
        assert sums[place].tobytes() == (start[place] + delta).tobytes()
    assert not list(bare)
    kept = fold(store).head
    assert {place: sums[place].tobytes() for place in sums} == {
        place: weights.read_floats(store.layout.blob(kept.folded.sha256), f"weights/{place}").tobytes()
        for place in changes
    }


def test_a_store_with_factors_is_a_store_like_any_other(store, tmp_path):
    synthetic.learn(store, "alice", 0)
    synthetic.learn(store, "bob", 1, rank=2)
    synthetic.learn(store, "carol", 2, rank=1, density=0.5)
    before = fold(store).head.folded
    store.layout.blob(before.sha256).unlink()
    # Made again from the base, a dense delta and two products.
    assert folded.build(store.layout, store.head()) == before
    forget(store, plan_forget(store, "bob"))
    undo(store, plan_undo(store))
    fold(store)
    assert store.head().folded == before
    assert verify(store.layout, read_data=True).problems == ()
    compact(store, plan_compact(store))
    assert not any(each.factored for each in store.head().concepts)
    assert verify(store.layout, read_data=True).problems == ()
    forget(store, plan_forget(store, "bob", purge_it=True))
    assert verify(store.layout, read_data=True).problems == ()


def test_a_file_with_factors_goes_from_store_to_store(store, tmp_path, base_folder):
    synthetic.learn(store, "alice", 3, rank=2, density=0.5)
    (file,) = export_concepts(store, ["alice"], tmp_path / "alice.safetensors")
    other = synthetic.make_store(tmp_path / "other", base_folder)
    import_concept(other, file.path)
    assert fold(other).head.folded.sha256 == fold(store).head.folded.sha256
    assert other.head().concepts[0].factored


def test_a_store_of_an_earlier_format_is_raised_when_factors_come_in(store):
    store.layout.format.write_bytes(b"2\n")
    synthetic.learn(store, "alice", 0)
    assert store.layout.format.read_bytes() == b"2\n"
    assert b"factored" not in store.head().encoded
    synthetic.learn(store, "bob", 1, rank=2)
    assert store.layout.format.read_bytes() == b"4\n"
    undo(store, plan_undo(store))
    # History still has it.
    assert store.layout.format.read_bytes() == b"4\n"
    assert verify(store.layout).problems == ()
    store.layout.format.write_bytes(b"3\n")
    (problem,) = verify(store.layout).problems
    assert problem.where == "FORMAT"
    assert repair(store.layout) == ["write FORMAT again: generations need it"]
    assert store.layout.format.read_bytes() == b"4\n"
    assert Store(store.layout.root).head() == store.head()


def numbers(array):
    return Tensor("F32", array.shape, np.ascontiguousarray(array, "<f4").tobytes())


def off_grid(tensors):
    up = np.frombuffer(tensors[f"delta/{PLACE}/up"].data, "<f4").reshape(24, 2).copy()
    # Far fewer bits than the row's grid has room for, but beside a number 2^30 times as large.
    up[0] = 1.0, 2.0**-30
    tensors[f"delta/{PLACE}/up"] = numbers(up)


def too_large(tensors):
    tensors[f"delta/{PLACE}/up"] = numbers(np.full((24, 2), 2.0**12))
    tensors[f"delta/{PLACE}/down"] = numbers(np.full((2, 6), 2.0**12))


def beyond_fp32(tensors):
    tensors[f"delta/{PLACE}/up"] = numbers(np.full((24, 2), 2.0**100))
    tensors[f"delta/{PLACE}/down"] = numbers(np.full((2, 6), 2.0**100))


def infinite(tensors):
    tensors[f"delta/{PLACE}/down"] = numbers(np.full((2, 6), np.inf))


def part(name, shape, dtype="F32"):
    def change(tensors):
        tensors[f"delta/{PLACE}/{name}"] = Tensor(dtype, shape, bytes(tensorfile.WIDTHS[dtype] * math.prod(shape)))

    return change


def of_rank(rank):
    def change(tensors):
        part("up", (24, rank))(tensors)
        part("down", (rank, 6))(tensors)

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (off_grid, "differs from machine to machine"),
        (too_large, "beyond 65504"),
        (beyond_fp32, "beyond 65504"),
        (infinite, "finite"),
        (part("up", (24, 2), "F16"), "fp32"),
        (part("up", (23, 2)), "wrong shape"),
        (part("up", (24, 3)), "wrong shape"),
        (part("down", (12,)), "wrong shape"),
        (of_rank(0), "rank 0; 1 to 6"),
        (of_rank(7), "rank 7; 1 to 6"),
        (part("mask", (1,), "U8"), "wrong shape"),
        (part("values", (3,)), "two factors"),
        (part("side", (3,)), "no such weight"),
        (lambda tensors: tensors.pop(f"delta/{PLACE}/down"), "two factors"),
    ],
)
def test_factors_that_break_a_rule(store, tmp_path, change, rule):
    path = tmp_path / "alice.safetensors"
    path.write_bytes(synthetic.concept_bytes(store, "alice", rank=2))
    tensors, metadata = tensorfile.read_tensors(path)
    change(tensors)
    path.write_bytes(b"".join(tensorfile.encode(tensors, metadata)))
    before = store.head()
    with pytest.raises(ImportRefused, match=rule):
        import_concept(store, path)
    assert store.head() == before


def test_a_mask_over_factors_hides_nothing_behind_its_end(tmp_path):
    shapes = {"mid_block.attn2.to_k.weight": (23, 5)}
    store = synthetic.make_store(tmp_path / "odd", synthetic.write_base(tmp_path / "odd-base", shapes))
    path = tmp_path / "alice.safetensors"
    path.write_bytes(synthetic.concept_bytes(store, "alice", shapes=shapes, rank=2, density=0.5))
    tensors, metadata = tensorfile.read_tensors(path)
    mask = bytearray(tensors[f"delta/{PLACE}/mask"].data)
    mask[-1] |= 1
    tensors[f"delta/{PLACE}/mask"] = Tensor("U8", (len(mask),), bytes(mask))
    path.write_bytes(b"".join(tensorfile.encode(tensors, metadata)))
    with pytest.raises(ImportRefused, match="more bits"):
        import_concept(store, path)


def test_a_wrong_shape_is_refused_before_anything_is_multiplied(store, tmp_path, monkeypatch):
    def multiplied(self):
        raise AssertionError("it was multiplied")

    path = tmp_path / "alice.safetensors"
    path.write_bytes(synthetic.concept_bytes(store, "alice", rank=2))
    tensors, metadata = tensorfile.read_tensors(path)
    of_rank(7)(tensors)
    path.write_bytes(b"".join(tensorfile.encode(tensors, metadata)))
    monkeypatch.setattr(factors.Factors, "product", multiplied)
    with pytest.raises(ImportRefused, match="rank"):
        import_concept(store, path)


def test_only_one_matrix_is_multiplied_at_a_time(store):
    synthetic.learn(store, "alice", 0, rank=2)
    made = []
    plain = Factors.product
    try:
        Factors.product = lambda self: made.append(self) or plain(self)
        sums, _ = folded.read(store.layout, store.head())
        assert made == []
        sums[PLACE]
        assert len(made) == 1
    finally:
        Factors.product = plain
