"""The import gate: every rule with a file that breaks it, and nothing but the project's errors for any bytes at all."""

import dataclasses
import hashlib
import json
import math
import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conceptctl.cli.app import run
from conceptctl.errors import AlreadyExists, ConceptctlError, ImportRefused, NotFound, UsageError
from conceptctl.families.sd import FAMILY
from conceptctl.store import base, tensorfile, weights
from conceptctl.store.concept import METADATA_KEY, read_record
from conceptctl.store.tensorfile import Tensor
from conceptctl.store.verify import verify
from conceptctl.workflows.export import export_concepts
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.import_concept import import_concept
from tests import synthetic

PLACE = "delta/unet/mid_block.attn2.to_k.weight"
STATE = "state/fisher/unet/mid_block.attn2.to_k.weight"
"""Of a weight of 24 x 6."""


@pytest.fixture
def good(store, tmp_path):
    path = tmp_path / "alice.safetensors"
    path.write_bytes(synthetic.concept_bytes(store, "alice"))
    return path


def raw(path, header: bytes, numbers: bytes = b""):
    path.write_bytes(struct.pack("<Q", len(header)) + header + numbers)
    return path


def changed(store, good, change, **record):
    tensors, metadata = tensorfile.read_tensors(good)
    if record:
        metadata = synthetic.record(store, "alice", **record).metadata()
    change(tensors)
    good.write_bytes(b"".join(tensorfile.encode(tensors, metadata)))
    return good


def refused(store, path, rule):
    before = store.head()
    with pytest.raises(ImportRefused, match=rule):
        import_concept(store, path)
    assert store.head() == before
    assert list(store.layout.tmp.iterdir()) == []


def goes_out_the_same(store, file, folder):
    """The same tensors, bit for bit, and the record with what it stands on; in another store it is the file again."""
    start = store.head().start(())
    for raw in (False, True):
        out = folder / f"out-{raw}.safetensors"
        export_concepts(store, ("alice",), out, raw=raw)
        assert tensorfile.read_tensors(out)[0] == tensorfile.read_tensors(file)[0]
        assert read_record(out) == dataclasses.replace(read_record(file), stands_on=(), start=start)
        other = synthetic.make_store(folder / f"other-{raw}", folder / "base")
        found = import_concept(other, out)
        assert (found.stands_on, found.missing, found.bare, found.kept, found.lacking) == ((), (), False, (), None)
        assert other.blob(other.concept("alice")).read_bytes() == file.read_bytes()


def test_a_good_file_comes_in_and_goes_out_the_same(store, good, tmp_path):
    head = import_concept(store, good).generation
    assert [concept.name for concept in head.concepts] == ["alice"]
    assert store.blob(head.concepts[0]).read_bytes() == good.read_bytes()
    goes_out_the_same(store, good, tmp_path)


def test_another_name_is_written_into_the_file(store, good):
    head = import_concept(store, good, "alice2").generation
    assert read_record(store.blob(head.concepts[0])).name == "alice2"
    assert b'"alice"' not in store.blob(head.concepts[0]).read_bytes()


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", "Alice", "a\0", "-a", "a" * 65, "é"])
def test_names_that_cannot_be_one(store, good, name):
    with pytest.raises(UsageError):
        import_concept(store, good, name) if name else synthetic.learn(store, name)


def test_names_that_are_taken(store, good):
    import_concept(store, good)
    with pytest.raises(AlreadyExists, match="alice"):
        import_concept(store, good)
    with pytest.raises(AlreadyExists, match="as 'alice'"):
        import_concept(store, good, "bob")
    good.write_bytes(synthetic.concept_bytes(store, "taken", seed=3))
    with pytest.raises(AlreadyExists, match="token of the base"):
        import_concept(store, good)


def test_a_file_for_another_base_says_which(store, good):
    refused(store, changed(store, good, lambda tensors: None, base="ab" * 32), "needs base abab")


def test_a_concept_of_a_store_that_calls_the_same_base_otherwise(store, good, base_folder):
    source = base.inspect(base_folder, FAMILY)
    earlier = base.identity_by_names(source.weights, FAMILY)
    assert earlier != source.sha256
    head = import_concept(store, changed(store, good, lambda tensors: None, base=earlier)).generation
    assert read_record(store.blob(head.concepts[0])).base == source.sha256


@pytest.mark.parametrize("name", ["model.ckpt", "model.SafeTensors", "alice.safetensors"])
def test_a_pickle_under_any_name(store, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x80\x04\x95" + bytes(40) + b"cposix\nsystem\n")
    refused(store, path, "not a safetensors file")
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    refused(store, path, "not a safetensors file")


def test_no_file(store, tmp_path):
    with pytest.raises(NotFound):
        import_concept(store, tmp_path / "nothing")


def test_a_fifo_is_never_opened(store, tmp_path):
    os.mkfifo(tmp_path / "fifo.safetensors")
    refused(store, tmp_path / "fifo.safetensors", "regular file")
    refused(store, tmp_path, "regular file")


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        (b"", "header"),
        (b"[]", "no header"),
        (b"{,", "format asks for"),
        (b'{"a":1,"a":2}', "twice"),
        (b'{"__metadata__":{"a":1}}', "metadata"),
        (b'{"a":' + b"[" * 100_000, "format asks for"),
        (json.dumps({"../../etc/passwd": ENTRY}).encode(), "odd tensor name"),
        (json.dumps({"/a": ENTRY}).encode(), "odd tensor name"),
        (json.dumps({"a\u202eb": ENTRY}).encode(), "odd tensor name"),
        (json.dumps({"": ENTRY}).encode(), "odd tensor name"),
        (json.dumps({"a": {**ENTRY, "dtype": "PICKLE"}}).encode(), "unknown type"),
        (json.dumps({"a": {**ENTRY, "shape": [-1]}}).encode(), "sizes"),
        (json.dumps({"a": {**ENTRY, "shape": [2]}}).encode(), "does not fit"),
        (json.dumps({"a": {**ENTRY, "shape": [1e9]}}).encode(), "sizes"),
        (json.dumps({"a": {**ENTRY, "extra": 1}}).encode(), "description"),
        (json.dumps({"a": ENTRY, "b": ENTRY}).encode(), "overlap"),
        (json.dumps({"a": {**ENTRY, "data_offsets": [4, 8]}}).encode(), "gap"),
        (
            json.dumps({f"t{n}": {**ENTRY, "shape": [0], "data_offsets": [0, 0]} for n in range(20_001)}).encode(),
            "20000",
        ),
        (json.dumps({"a": {**ENTRY, "shape": [0], "data_offsets": [0, 0]}}).encode(), "padded"),
    ],
)
def test_headers_that_break_a_rule(store, tmp_path, header, rule):
    refused(store, raw(tmp_path / "x.safetensors", header, bytes(4)), rule)


def test_a_header_that_is_too_large(store, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", (16 << 20) + 1) + b"{" * 100)
    refused(store, path, "a header of")
    path.write_bytes(struct.pack("<Q", 0) + b"{}" * 100)
    refused(store, path, "a header of 0")
    path.write_bytes(struct.pack("<Q", 1000) + b"{" * 100)
    refused(store, path, "truncated")


def test_a_file_without_a_record(store, tmp_path):
    refused(store, raw(tmp_path / "x.safetensors", json.dumps({"a": ENTRY}).encode(), bytes(4)), "no record")


def nan(tensors):
    values = np.frombuffer(tensors[f"{PLACE}/values"].data, dtype="<f4").copy()
    values[0] = np.nan
    tensors[f"{PLACE}/values"] = Tensor("F32", values.shape, values.tobytes())


def infinite_state(tensors):
    tensors[STATE] = Tensor("F32", (1,), np.array([np.inf], "<f4").tobytes())


def flipped_mask(tensors):
    mask = bytearray(tensors[f"{PLACE}/mask"].data)
    mask[0] ^= 128
    tensors[f"{PLACE}/mask"] = Tensor("U8", (len(mask),), bytes(mask))


def short_mask(tensors):
    tensors[f"{PLACE}/mask"] = Tensor("U8", (1,), b"\xff")


def unknown_place(tensors):
    for part in ("mask", "values"):
        tensors[f"delta/unet/none/{part}"] = tensors.pop(f"{PLACE}/{part}")


def other_weight(tensors):
    for part in ("mask", "values"):
        tensors[f"delta/vae/w/{part}"] = tensors.pop(f"{PLACE}/{part}")


def lonely_mask(tensors):
    del tensors[f"{PLACE}/values"]


def stowaway(tensors):
    tensors["photo"] = Tensor("U8", (3,), b"abc")


def wide_token(tensors):
    tensors["token"] = Tensor("F32", (1, 7), bytes(28))


def no_token(tensors):
    tensors["token"] = Tensor("F32", (0, 6), b"")


def half_values(tensors):
    count = tensors[f"{PLACE}/values"].shape[0]
    tensors[f"{PLACE}/values"] = Tensor("F16", (count,), bytes(2 * count))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (nan, "finite"),
        (infinite_state, "finite"),
        (flipped_mask, "fit together"),
        (short_mask, "wrong shape"),
        (unknown_place, "no such weight"),
        (lonely_mask, "go together"),
        (stowaway, "has a tensor"),
        (wide_token, "token"),
        (no_token, "token"),
        (other_weight, "no such weight that a concept changes"),
        (half_values, "fp32"),
        (lambda tensors: tensors.pop("token"), "token"),
        (lambda tensors: tensors.update(features=Tensor("F32", (2,), bytes(8))), "features"),
    ],
)
def test_tensors_that_break_a_rule(store, good, change, rule):
    refused(store, changed(store, good, change), rule)


def zeros(shape, dtype="F32"):
    return Tensor(dtype, shape, bytes(tensorfile.WIDTHS[dtype] * math.prod(shape)))


NO_WEIGHT = "belongs to no weight that a concept changes"
NO_SIZE = "no fp32 numbers of a size"


@pytest.mark.parametrize(
    ("state", "rule"),
    [
        # Names of what is kept.
        ({"state/Fisher/unet/mid_block.attn2.to_k.weight": zeros((24, 6))}, NO_WEIGHT),
        ({"state/9/unet/mid_block.attn2.to_k.weight": zeros((24, 6))}, NO_WEIGHT),
        ({"state//unet/mid_block.attn2.to_k.weight": zeros((24, 6))}, NO_WEIGHT),
        ({f"state/{'f' * 33}/unet/mid_block.attn2.to_k.weight": zeros((24, 6))}, NO_WEIGHT),
        # Places that deltas do not go on, and none.
        ({"state/fisher": zeros((1,))}, NO_WEIGHT),
        ({"state/fisher/": zeros((1,))}, NO_WEIGHT),
        ({"state/fisher/unet/none": zeros((1,))}, NO_WEIGHT),
        ({"state/fisher/vae/w": zeros((3,))}, NO_WEIGHT),
        ({f"state/fisher/text_encoder/{synthetic.TOKEN_TABLE}": zeros((8, 6))}, NO_WEIGHT),
        ({f"state/fisher/{PLACE}": zeros((24, 6))}, NO_WEIGHT),
        # Types, ranks and sizes.
        *(({STATE: zeros((24, 6), dtype)}, NO_SIZE) for dtype in ("F16", "BF16", "F64", "U8", "I64", "BOOL")),
        ({STATE: zeros(())}, NO_SIZE),
        ({STATE: zeros((24, 6, 1))}, NO_SIZE),
        ({STATE: zeros((25, 6))}, NO_SIZE),
        ({STATE: zeros((6, 25))}, NO_SIZE),
        ({STATE: zeros((25,))}, NO_SIZE),
        ({STATE.replace("to_k", "to_v"): zeros((21, 6))}, NO_SIZE),
        ({f"state/kind{n}/unet/mid_block.attn2.to_k.weight": zeros((1,)) for n in range(17)}, "17 kinds of state"),
    ],
)
def test_states_that_break_a_rule(store, good, state, rule):
    refused(store, changed(store, good, lambda tensors: tensors.update(state)), rule)
    assert run(["import", str(good), "--store", str(store.layout.root)]) == 8


def test_a_sound_state_comes_in_and_is_read_as_it_was(store, tmp_path):
    kept = {
        **synthetic.state(),
        "fisher/unet/mid_block.attn2.to_v.weight": np.arange(120, dtype=np.float32).reshape(20, 6),
        "each_row/unet/mid_block.attn2.to_k.weight": np.arange(24, dtype=np.float32),
        **{f"k{n}/unet/mid_block.attn2.to_k.weight": np.full((1,), n, np.float32) for n in range(12)},
    }
    assert len({name.partition("/")[0] for name in kept}) == 16
    path = tmp_path / "alice.safetensors"
    path.write_bytes(synthetic.concept_bytes(store, "alice", state=kept))
    head = import_concept(store, path).generation
    found = weights.read_state(store.blob(head.concepts[0]))
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in kept.items()
    }
    assert verify(store.layout, read_data=True).problems == ()
    goes_out_the_same(store, path, tmp_path)


def test_bits_beyond_the_end_of_a_mask(tmp_path):
    """A matrix whose size is no multiple of eight leaves bits that mean nothing and must be zero."""
    shapes = {"mid_block.attn2.to_k.weight": (3, 3)}
    store = synthetic.make_store(tmp_path / "s", synthetic.write_base(tmp_path / "b", shapes))
    path = tmp_path / "x.safetensors"
    path.write_bytes(synthetic.concept_bytes(store, "alice", shapes=shapes))

    def set_them(tensors):
        mask = bytearray(tensors[f"{PLACE}/mask"].data)
        mask[1] |= 1
        values = np.frombuffer(tensors[f"{PLACE}/values"].data, dtype="<f4")
        tensors[f"{PLACE}/mask"] = Tensor("U8", (2,), bytes(mask))
        more = np.append(values, np.float32(1))
        tensors[f"{PLACE}/values"] = Tensor("F32", more.shape, more.tobytes())

    refused(store, changed(store, path, set_them), "more bits")


@pytest.mark.parametrize(
    "record", [{"name": "../x"}, {"uid": "x"}, {"steps": "many"}, {"loss_curve": ("a",)}, {"photos": True}]
)
def test_records_that_break_a_rule(store, good, record):
    tensors, _ = tensorfile.read_tensors(good)
    made = synthetic.record(store, **{"name": "alice", **record})
    good.write_bytes(b"".join(tensorfile.encode(tensors, made.metadata())))
    refused(store, good, "record")


UID = "0123456789abcdef"


def with_field(path, field, value):
    """Give a concept file's record a field that is anything at all."""
    tensors, metadata = tensorfile.read_tensors(path)
    entry = json.loads(metadata[METADATA_KEY])
    entry["concept"][field] = value
    path.write_bytes(b"".join(tensorfile.encode(tensors, {METADATA_KEY: json.dumps(entry)})))
    return path


@pytest.mark.parametrize("field", ["contains", "stands_on"])
@pytest.mark.parametrize(
    "uids", [UID, None, 1, True, {UID: UID}, [1], [None], [[UID]], [UID[1:]], [UID + "0"], [UID.upper()], ["../x"],
             [UID + "\n"], [UID, ""]]
)  # fmt: skip
def test_what_a_concept_contains_and_stands_on_are_rows_of_uids(store, good, field, uids):
    refused(store, with_field(good, field, uids), f"{field} is not a row of uids")
    assert run(["import", str(good), "--store", str(store.layout.root)]) == 8


def test_a_concept_comes_in_after_those_that_it_contains(store, good):
    assert read_record(good).contains == ()
    before = synthetic.learn(store, "bob", 5).concepts[0].uid
    with_field(good, "contains", [before, UID])
    with pytest.raises(ImportRefused, match=r"1 of them is not in this store$") as caught:
        import_concept(store, good)
    assert "import those first" in caught.value.hint
    with_field(good, "contains", [before])
    head = import_concept(store, good, "robert", raw=True).generation
    assert read_record(store.blob(head.concept("robert"))).contains == (before,)


def test_nothing_goes_on_from_a_delta_that_was_solved_for(store, good):
    before = synthetic.learn(store, "bob", 5).concepts[0].uid
    with_field(good, "contains", [before])
    head = import_concept(store, good, "robert").generation
    path = store.blob(head.concept("robert"))
    assert read_record(path).contains == () and weights.state_kinds(path) == frozenset()


def test_a_record_says_what_it_contains_only_where_there_is_something(store):
    """Files of earlier versions have no such field, and the same concept gives the same file as ever."""
    for field in ("contains", "stands_on", "start"):
        assert field not in synthetic.record(store, "alice").metadata()[METADATA_KEY]
    for field in ("contains", "stands_on"):
        said = synthetic.record(store, "alice", **{field: (UID,)}).metadata()[METADATA_KEY]
        assert f'"{field}":["{UID}"]' in said
    assert f'"start":"{UID}"' in synthetic.record(store, "alice", start=UID).metadata()[METADATA_KEY]
    assert '"stands_on":[]' in synthetic.record(store, "alice", stands_on=()).metadata()[METADATA_KEY]


def test_a_store_does_not_keep_what_a_file_says_that_it_stands_on(store, good, tmp_path):
    """There it follows from history, and the same concept is the same blob whatever it came through."""
    plain = good.read_bytes()
    with_field(good, "stands_on", [])
    with_field(good, "start", store.head().start(()))
    assert good.read_bytes() != plain
    import_concept(store, good)
    assert store.blob(store.concept("alice")).read_bytes() == plain


@pytest.mark.parametrize("start", [1, None, ["a"], True])
def test_where_a_delta_starts_is_a_digest(store, good, start):
    refused(store, with_field(good, "start", start), "start is no digest")


HERE, ELSEWHERE = "here", "ab" * 32


@pytest.mark.parametrize(
    ("stands_on", "start", "solved", "bare"),
    [
        # As it was learned, on the very weights that are here.
        (["bob", "carol"], HERE, False, False),
        # As it was learned, on others: what was here then is gone, or is not as it was.
        (["bob", "carol"], ELSEWHERE, True, True),
        (["carol", "bob"], ELSEWHERE, True, True),
        (["bob"], ELSEWHERE, True, True),
        (["bob", UID], ELSEWHERE, True, True),
        # Made whole, on the base alone or beside those that are named.
        ([], None, True, False),
        (["bob"], None, True, False),
        # Of an earlier version.
        (None, None, True, True),
    ],
)
def test_a_delta_is_added_as_it_is_only_to_the_weights_that_it_was_learned_on(
    store, good, stands_on, start, solved, bare
):
    for seed, name in enumerate(("bob", "carol")):
        synthetic.learn(store, name, seed + 5)
    head = store.head()
    uids = {each.name: each.uid for each in head.concepts}
    with_field(good, "after", 2)
    if stands_on is not None:
        with_field(good, "stands_on", [uids.get(name, name) for name in stands_on])
    if start is not None:
        with_field(good, "start", head.start(head.concepts) if start == HERE else start)
    found = import_concept(store, good)
    assert (found.stands_on, found.bare) == (None if stands_on is None else tuple(stands_on), bare)
    assert found.missing == tuple(name for name in stands_on or () if name == UID)
    assert found.lacking == (0.0 if solved else None)


def test_a_start_is_of_all_that_weights_are_made_of(store):
    """Of the base, what was consolidated, and the deltas, in their order."""
    for seed, name in enumerate(("alice", "bob")):
        head = synthetic.learn(store, name, seed)
    alice, bob = head.concepts
    made_of = f'["{head.base.sha256}","",["{alice.blob.sha256}"]]'
    assert head.start((alice,)) == hashlib.sha256(made_of.encode()).hexdigest()
    forgotten = forget(store, plan_forget(store, "alice"))
    assert len({head.start(()), head.start((alice,)), head.start((alice, bob)), forgotten.start((bob,))}) == 4
    assert head.start((alice, bob)) != head.start((bob, alice))


def test_a_file_that_says_nothing_and_was_learned_first_stands_on_nothing(store, good):
    assert read_record(good).after == 0
    assert read_record(good).stands_on is None
    found = import_concept(store, good)
    assert (found.stands_on, found.missing, found.bare, found.lacking) == ((), (), False, None)


@settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes_give_a_concept_or_a_project_error(store, tmp_path, data):
    rank, density = data.draw(st.sampled_from([(0, 0.3), (2, 1.0), (2, 0.5)]))
    # `after` would grow with every example that was imported and undone, and with it the file that is drawn from.
    content = bytearray(synthetic.concept_bytes(store, "alice", rank=rank, density=density, after=0))
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(("flip", "cut", "insert")))
        if kind == "flip":
            content[where] ^= data.draw(st.integers(1, 255))
        elif kind == "cut" and where:
            del content[where : where + data.draw(st.integers(1, 20))]
        else:
            content[where:where] = data.draw(st.binary(min_size=1, max_size=12))
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(content)
    head = store.head()
    try:
        import_concept(store, path)
    except ConceptctlError:
        assert store.head() == head
        return
    from conceptctl.workflows.undo import plan_undo, undo

    undo(store, plan_undo(store))
