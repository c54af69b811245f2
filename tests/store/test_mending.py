"""verify, repair and gc."""

import pytest

from conceptctl.errors import StoreDamaged
from conceptctl.store import garbage
from conceptctl.store.repair import repair
from conceptctl.store.store import Store
from conceptctl.store.verify import verify
from conceptctl.workflows.fold import fold
from conceptctl.workflows.undo import plan_undo, undo
from tests import synthetic


@pytest.fixture
def full(store):
    for seed, name in enumerate(("alice", "bob")):
        synthetic.learn(store, name, seed)
    fold(store)
    return store


def damage(path):
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def manifest(store, seq):
    return store.layout.manifest(seq, store.log()[seq].id)


def problems(store, read_data=True):
    return [problem.where.split("/")[0] for problem in verify(store.layout, read_data=read_data).problems]


def contents(store):
    """Return what must never be deleted: everything but the format number and the locks."""
    layout = store.layout
    files = (path for path in layout.root.rglob("*") if path.is_file())
    return {path.read_bytes() for path in files if path != layout.format and layout.locks not in path.parents}


def mended(store):
    """Repair, and make sure that nothing is deleted and that nothing is left to do."""
    before = contents(store)
    assert repair(store.layout, dry_run=True) != []
    assert contents(store) == before
    repair(store.layout)
    assert contents(store) >= before
    assert repair(store.layout) == []


def test_a_sound_store_needs_nothing(full):
    assert problems(full) == []
    assert repair(full.layout) == []


def test_sizes_are_looked_at_and_bytes_when_asked(full):
    path = full.blob(full.concept("alice"))
    damage(path)
    assert problems(full, read_data=False) == []
    assert problems(full) == ["blobs"]
    path.write_bytes(b"")
    assert problems(full, read_data=False) == ["blobs"]
    path.unlink()
    assert problems(full, read_data=False) == ["blobs"]


def test_a_damaged_index_is_rebuilt_from_history(full):
    head, history = full.head(), full.log()
    for harm in (b"", b"not a database", full.layout.index.read_bytes()[:4096] + bytes(4096)):
        full.layout.index.write_bytes(harm)
        assert problems(full)[0] == "index.db"
        repair(full.layout)
        assert (full.head(), full.log()) == (head, history)
        assert problems(full) == []


def test_a_missing_index_is_rebuilt(full):
    head = full.head()
    full.layout.index.unlink()
    assert problems(full) == ["index.db"]
    mended(full)
    assert full.head() == head


def test_a_damaged_head_manifest_comes_back_from_the_index(full):
    head = full.head()
    damage(manifest(full, 3))
    assert problems(full) == ["gens"]
    mended(full)
    assert problems(full) == []
    assert Store(full.layout.root).generation(3) == head


def test_a_lost_generation_is_said_to_be_lost(full):
    head = full.head()
    damage(manifest(full, 1))
    mended(full)
    assert full.head() == head
    report = verify(full.layout, read_data=True)
    assert report.problems == ()
    assert any("generation 1 was lost" in note for note in report.notes)
    with pytest.raises(StoreDamaged):
        full.generation(1)
    synthetic.learn(full, "carol", 4)
    undo(full, plan_undo(full, to=2))
    assert [concept.name for concept in full.head().concepts] == ["alice", "bob"]


def test_a_lost_generation_and_a_lost_index(full):
    head = full.head()
    damage(manifest(full, 1))
    full.layout.index.unlink()
    full.layout.index_sum.unlink()
    repair(full.layout)
    assert full.head() == head
    assert [row.verb for row in full.log()] == ["init", "lost", "learn", "fold"]
    assert problems(full) == []


def test_folded_weights_are_made_again(full):
    head = full.head()
    path = full.layout.blob(head.folded.sha256)
    good = path.read_bytes()
    damage(path)
    mended(full)
    assert path.read_bytes() == good
    assert problems(full) == []


def test_a_damaged_concept_is_put_aside_and_stays_a_problem(full):
    damage(full.blob(full.concept("alice")))
    mended(full)
    report = verify(full.layout, read_data=True)
    assert [problem.what for problem in report.problems] == ["concept alice: missing"]
    assert len(list(full.layout.damaged.iterdir())) == 1


def test_a_store_without_its_format_number_is_no_empty_folder(full, tmp_path):
    full.layout.format.unlink()
    with pytest.raises(StoreDamaged):
        synthetic.make_store(full.layout.root, tmp_path / "base")
    assert problems(full) == ["FORMAT"]
    mended(full)
    assert [concept.name for concept in full.head().concepts] == ["alice", "bob"]


def test_a_damaged_format_number_is_written_again(full):
    full.layout.format.write_bytes(b"x")
    assert problems(full) == ["FORMAT"]
    mended(full)
    assert problems(full) == []


def test_without_any_manifest_only_a_backup_helps(full):
    for path in full.layout.generations.iterdir():
        damage(path)
    full.layout.index.unlink()
    with pytest.raises(StoreDamaged, match="backup"):
        repair(full.layout, dry_run=True)


def test_gc_takes_out_what_nothing_needs_and_nothing_else(full, tmp_path):
    undo(full, plan_undo(full, to=1))
    needed = {path.name for path in full.layout.blobs.glob("*/*")}
    with full.writing("test") as writer:
        path = tmp_path / "loose.safetensors"
        path.write_bytes(synthetic.concept_bytes(full, "loose", 9))
        loose = writer.add_file(path)
        plan = garbage.collect(full.layout)
    assert [path.name for path in plan.to_trash] == [loose.sha256]
    assert {path.name for path in full.layout.blobs.glob("*/*")} == needed
    assert [path.name for path in full.layout.trash.iterdir()] == [loose.sha256]
    assert verify(full.layout, read_data=True).problems == ()
    with full.writing("test"):
        garbage.collect(full.layout)
    assert list(full.layout.trash.iterdir()) == []
    undo(full, plan_undo(full, to=3))


@pytest.mark.parametrize("harm", ["manifest", "blob"])
def test_gc_refuses_when_it_cannot_know(full, harm):
    if harm == "manifest":
        damage(manifest(full, 1))
    else:
        full.blob(full.concept("alice")).unlink()
    before = sorted(full.layout.blobs.glob("*/*"))
    with pytest.raises(StoreDamaged):
        garbage.plan(full.layout)
    assert sorted(full.layout.blobs.glob("*/*")) == before
