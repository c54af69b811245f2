"""T7: a flipped bit is found, wherever it is."""

import random
from unittest import mock

import pytest

from conceptctl.store import blobs, index, manifest, verify
from conceptctl.store.manifest import Generation
from tests import synthetic
from tests.faults.drills import cli

STEP = 61
"""The short form flips one byte in so many; no size of a structure divides by it."""


@pytest.fixture
def history(store):
    for seed, name in enumerate(("alice", "bob", "carol")):
        synthetic.learn(store, name, seed, rank=seed)
    root = str(store.layout.root)
    assert cli("fold", "--store", root) == 0
    assert cli("forget", "bob", "--yes", "--store", root) == 0
    return store


def flip(path, position, bit):
    mode = path.stat().st_mode
    path.chmod(0o600)
    with path.open("r+b") as stream:
        stream.seek(position)
        old = stream.read(1)
        stream.seek(position)
        stream.write(bytes([old[0] ^ (1 << bit)]))
    path.chmod(mode)


def missed(store, targets):
    """Return the flips that verify did not find."""
    silent = []
    rng = random.Random(0)
    for path, position in targets:
        bit = rng.randrange(8)
        flip(path, position, bit)
        try:
            if not verify.verify(store.layout, read_data=True).problems:
                silent.append((path.name, position, bit))
        finally:
            flip(path, position, bit)
    assert verify.verify(store.layout, read_data=True).problems == ()
    return silent


def bytes_of(paths, step):
    return [(path, position) for path in paths for position in range(0, path.stat().st_size, step)]


def index_and_manifests(store):
    return [store.layout.index, *sorted(store.layout.generations.iterdir())]


def all_blobs(store):
    wanted = verify.wanted([store.generation(row.seq) for row in store.log()])
    return sorted(store.layout.blob(ref.sha256) for ref in wanted)


def test_flips_in_index_and_manifests_are_found(history):
    targets = bytes_of(index_and_manifests(history), STEP)
    assert len(targets) > 300
    assert missed(history, targets) == []


def test_flips_in_blobs_are_found(history):
    targets = bytes_of(all_blobs(history), STEP)
    assert len(targets) > 100
    assert missed(history, targets) == []


def test_flips_in_small_files_are_found_or_harmless(history):
    assert missed(history, bytes_of([history.layout.format], 1)) == []
    # A flip in the seal's head or count makes it an old seal, while the index it belongs to is whole.
    silent = missed(history, bytes_of([history.layout.index_sum], 1))
    assert all(position < 200 for _, position, _ in silent)


def test_without_the_chain_flips_go_unnoticed(history):
    """The mutant: a manifest is believed whatever its digest is."""
    ids = {row.seq: row.id for row in history.log()}
    path = history.layout.manifest(1, ids[1])
    position = path.read_bytes().index(b'"learned":"2026') + 14
    with (
        mock.patch.object(verify, "decode", lambda data, identity: manifest.parse(data)),
        mock.patch.object(Generation, "identity", property(lambda generation: ids[generation.seq])),
    ):
        assert missed(history, [(path, position)]) != []


def test_without_the_seal_flips_in_unused_bytes_go_unnoticed(history):
    data = history.layout.index.read_bytes()
    unused = data.index(bytes(64), 4096)
    with mock.patch.object(index, "check_seal", lambda layout: ""):
        assert missed(history, [(history.layout.index, unused + 32)]) != []


def test_without_digests_flips_in_blobs_go_unnoticed(history):
    path = all_blobs(history)[0]
    real = blobs.problem
    with mock.patch.object(blobs, "problem", lambda layout, ref, read: real(layout, ref)):
        assert missed(history, [(path, path.stat().st_size - 1)]) != []


@pytest.mark.long
def test_every_byte_of_index_and_manifests(history):
    targets = bytes_of(index_and_manifests(history), 1)
    silent = missed(history, targets)
    print(f"T7: {len(targets)} flips in index and manifests, {len(silent)} not found")
    assert silent == []


@pytest.mark.long
def test_ten_thousand_blob_bytes(history):
    everywhere = bytes_of(all_blobs(history), 1)
    targets = random.Random(1).choices(everywhere, k=10_000)
    silent = missed(history, targets)
    print(f"T7: {len(targets)} flips in blobs, {len(silent)} not found")
    assert silent == []
