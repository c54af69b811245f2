"""Stores of earlier versions, whose manifests do not say of what family their base is: read, and gone on with."""

import dataclasses
import hashlib
import json

import pytest

from conceptctl import families
from conceptctl.errors import StoreDamaged
from conceptctl.families.sd import FAMILY
from conceptctl.store import base
from conceptctl.store.layout import READABLE
from conceptctl.store.manifest import canonical, decode, parse
from conceptctl.store.repair import repair
from conceptctl.store.store import Store
from conceptctl.store.verify import verify
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.import_concept import import_concept
from conceptctl.workflows.undo import plan_undo, undo
from tests import synthetic

WRITTEN = (
    '{"action":{"names":["alice"],"verb":"fold"},"attachments":[],"base":{"files":{"text_encoder/model.safetensors":'
    '{"sha256":"f2a6fc06d5916e6d39638690bb91d7893c1a795fea89da9ffcf5089747292cf4","size":336},'
    '"unet/diffusion_pytorch_model.safetensors":'
    '{"sha256":"d0dc040a65de703bea63dc43c1e2c1ed22fd37bf4910fbc309afe585edfe07c9","size":1272},'
    '"vae/diffusion_pytorch_model.safetensors":'
    '{"sha256":"93feacbae1188ea712eaae035f35cae31f6c905791035c25be8e6928ec32830f","size":108}},"name":"local folder",'
    '"sha256":"309b17f7631905c26e77ff4db5f2550cfee9d82fce9a06319e7f5c7bffc01a8f","texts":'
    '{"sha256":"5e0f92519143296f50606177896e5e674a93299b61c8ea31b8cd10dd75210946","size":408}},"concepts":[{"blob":'
    '{"sha256":"126fffc995b6979e570a3902634e94e5e1a6cb940494f6fd0f5b429d6f886c97","size":1277},"class_word":"person",'
    '"folded":true,"learned":"2026-11-01T00:00:00Z","method":"stamina","name":"alice","uid":"1778ec5170493f8b"}],'
    '"folded":{"sha256":"56fc523957a6c2770833d075cee98774c6e9cc48dc54f9ac7a9a2760cfd30771","size":1368},'
    '"parent":"2594398d1ae04ef80b1e241b2317fd22c3df728bfed98484b95bf49e05942a63","program":"0.1.0","purges":0,'
    '"restores":2,"seq":2,"time":"2026-11-28T16:12:10Z"}'
)
"""What such a version wrote."""
IDENTITY = "a3b9db7ec674b2392c06c18284983a7febbf63e0c87f590b01980923b6bfb2a9"


def test_what_an_earlier_version_wrote_keeps_its_name():
    found = decode(WRITTEN.encode(), IDENTITY)
    assert found.base.family is None
    assert found.encoded == WRITTEN.encode()
    assert found.identity == IDENTITY
    assert (found.consolidated, found.floor) == (None, 0)
    assert not any(concept.consolidated for concept in found.concepts)
    following = found.after(found.action)
    assert following.parent == IDENTITY
    for name in (b"family", b"consolidated", b"floor", b"factored"):
        assert name not in following.encoded
    assert decode(following.encoded, following.identity) == following
    assert families.facts_of(found.base) == families.family_of(found.base).FAMILY == FAMILY


def test_a_family_is_read_back_as_it_was_written(store):
    head = store.head()
    assert json.loads(head.encoded)["base"]["family"]["name"] == "sd"
    assert parse(head.encoded) == head
    assert parse(head.encoded).base.family == FAMILY
    # It is part of what the digest is of.
    assert dataclasses.replace(head, base=dataclasses.replace(head.base, family=None)).identity != head.identity
    changed = head.encoded.replace(b"attn2.to_k", b"attn1.to_k")
    assert changed != head.encoded
    with pytest.raises(StoreDamaged):
        decode(changed, head.identity)


def test_what_is_consolidated_is_read_back_as_it_was_written(store):
    for seed, name in enumerate(("alice", "bob")):
        synthetic.learn(store, name, seed)
    forget(store, plan_forget(store, "alice"))
    head = dataclasses.replace(store.head(), floor=2)
    assert head.consolidated is not None
    assert [concept.consolidated for concept in head.concepts] == [True]
    assert parse(head.encoded) == head
    # It is part of what the digest is of.
    others = (
        dataclasses.replace(head, floor=0),
        dataclasses.replace(head, consolidated=None),
        dataclasses.replace(head, concepts=(dataclasses.replace(head.concepts[0], consolidated=False),)),
    )
    assert len({head.identity, *(each.identity for each in others)}) == 4


@pytest.fixture
def earlier(tmp_path, base_folder):
    """A store as earlier versions made it, with something learned, and one generation undone."""
    source = dataclasses.replace(base.inspect(base_folder, FAMILY), family=None)
    made = Store.create(tmp_path / "earlier", source, "local folder")
    for seed, name in enumerate(("alice", "bob")):
        synthetic.learn(made, name, seed)
    undo(made, plan_undo(made))
    return made


def manifests(store):
    """The digest of every generation's bytes on the disk, oldest first, and what the bytes say."""
    found = [store.layout.manifest(row.seq, row.id).read_bytes() for row in store.log()]
    return [hashlib.sha256(data).hexdigest() for data in found], [json.loads(data) for data in found]


def test_its_manifests_are_those_of_that_version(earlier):
    """Field by field, from what is known of the generation and not from what writes it here."""
    for row in earlier.log():
        data = earlier.layout.manifest(row.seq, row.id).read_bytes()
        entry = dataclasses.asdict(earlier.generation(row.seq))
        assert entry["base"].pop("family") is None
        assert (entry.pop("consolidated"), entry.pop("floor")) == (None, 0)
        for name in ("consolidated", "factored"):
            assert [each.pop(name) for each in entry["concepts"]] == [False] * len(entry["concepts"])
        assert set(entry["base"]) == {"name", "sha256", "files", "texts"}
        assert data == canonical(entry)


def test_generations_go_on_from_it_and_the_chain_holds(earlier, tmp_path):
    before, _ = manifests(earlier)
    path = tmp_path / "carol.safetensors"
    path.write_bytes(synthetic.concept_bytes(earlier, "carol", 3, state=synthetic.state()))
    import_concept(earlier, path)
    head = synthetic.learn(earlier, "dora", 4)
    assert verify(earlier.layout, read_data=True).problems == ()
    fold(earlier)
    forget(earlier, plan_forget(earlier, "alice"))
    undo(earlier, plan_undo(earlier, to=1))
    undo(earlier, plan_undo(earlier, to=head.seq))
    after, entries = manifests(earlier)
    assert after[: len(before)] == before
    assert [row.id for row in earlier.log()] == after
    assert [entry["parent"] for entry in entries] == ["", *after[:-1]]
    assert not any("family" in entry["base"] for entry in entries)
    assert [concept.name for concept in earlier.head().concepts] == ["alice", "carol", "dora"]
    assert verify(earlier.layout, read_data=True).problems == ()
    # Without its index nothing is known but the manifests.
    earlier.layout.index.unlink()
    earlier.layout.index_sum.unlink()
    repair(earlier.layout)
    assert manifests(earlier)[0] == after
    assert verify(earlier.layout, read_data=True).problems == ()


def test_a_purge_writes_its_history_anew_and_the_chain_holds(earlier):
    synthetic.learn(earlier, "carol", 3)
    forget(earlier, plan_forget(earlier, "alice", purge_it=True))
    names, entries = manifests(earlier)
    assert [entry["parent"] for entry in entries] == ["", *names[:-1]]
    assert not any("family" in entry["base"] for entry in entries)
    assert [concept.name for concept in earlier.head().concepts] == ["carol"]
    assert verify(earlier.layout, read_data=True).problems == ()


def test_it_holds_what_a_store_of_now_holds(earlier, tmp_path, base_folder):
    now = synthetic.make_store(tmp_path / "now", base_folder)
    synthetic.learn(now, "alice", 0)
    ours, theirs = now.head(), earlier.head()
    assert dataclasses.replace(ours.base, family=None) == theirs.base
    assert ours.concepts == theirs.concepts
    assert fold(now).head.folded == fold(earlier).head.folded


@pytest.mark.parametrize("number", READABLE)
def test_a_store_that_draws_keeps_the_format_that_it_was_made_in(store, number):
    """Until something enters that its programs would misread; stores that tell classes apart are the latest at once."""
    store.layout.format.write_text(f"{number}\n")
    opened = Store(store.layout.root)
    synthetic.learn(opened, "alice")
    fold(opened)
    assert opened.layout.format_number() == number
    assert not verify(opened.layout, read_data=True).problems
