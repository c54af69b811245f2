import os
import stat
import threading

import numpy as np
import pytest

from conceptctl.errors import AlreadyExists, Busy, ImportRefused, NotFound, StoreDamaged, StoreTooNew
from conceptctl.families.sd import FAMILY
from conceptctl.store import base, folded, garbage, jobs, locks, tensorfile
from conceptctl.store.layout import FORMAT_NUMBER
from conceptctl.store.manifest import Action, decode
from conceptctl.store.repair import repair
from conceptctl.store.store import Store
from conceptctl.store.verify import verify
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from tests import synthetic


def test_a_new_store_is_private_and_sound(store):
    assert stat.S_IMODE(store.layout.root.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in store.layout.folders)
    assert verify(store.layout, read_data=True).problems == ()
    assert store.head().seq == 0


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_every_file_is_its_owners_alone_whatever_the_umask(umask, tmp_path, base_folder):
    before = os.umask(umask)
    try:
        store = synthetic.make_store(tmp_path / "private", base_folder)
        for seed, name in enumerate(("alice", "bob")):
            synthetic.learn(store, name, seed)
        fold(store)
        forget(store, plan_forget(store, "bob", purge_it=True))
        with store.writing("learn"):
            job = jobs.start(store.layout, {"name": "carol"})
            job.save(1, {}, {})
        with store.writing("test") as writer:
            (tmp_path / "loose").write_bytes(synthetic.concept_bytes(store, "loose", 9))
            writer.add_file(tmp_path / "loose")
            garbage.collect(store.layout)
        store.layout.index_sum.unlink()
        repair(store.layout)
        synthetic.learn(store, "dora", 3)
    finally:
        os.umask(before)
    for path in (store.layout.root, *store.layout.root.rglob("*")):
        read_only = path.parent == store.layout.generations or store.layout.blobs in path.parents
        wanted = 0o700 if path.is_dir() else 0o400 if read_only else 0o600
        # What gc takes out keeps the mode it had.
        assert stat.S_IMODE(path.stat().st_mode) in {wanted, 0o400 if path.parent == store.layout.trash else wanted}, (
            path
        )


def test_blobs_are_read_only_safetensors_named_by_their_digest(store):
    synthetic.learn(store, "alice")
    blobs = list(store.layout.blobs.glob("*/*"))
    assert len(blobs) == 5
    for path in blobs:
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
        assert path.parent.name == path.name[:2]


def test_a_generation_is_what_was_committed(store):
    head = synthetic.learn(store, "alice")
    again = Store(store.layout.root)
    assert again.head() == head
    assert again.generation(1) == head
    assert [row.verb for row in again.log()] == ["init", "learn"]
    assert head.parent == again.generation(0).identity


def test_no_host_path_enters(store, base_folder):
    for path in store.layout.root.rglob("*"):
        if path.is_file():
            assert b"/home/someone" not in path.read_bytes()
            assert str(base_folder).encode() not in path.read_bytes()


def test_the_base_comes_back_as_a_folder(store, base_folder):
    with base.folder(store.layout, store.head()) as laid_out:
        for path in base_folder.rglob("*.safetensors"):
            assert (laid_out / path.relative_to(base_folder)).read_bytes() == path.read_bytes()
        assert (laid_out / "model_index.json").read_bytes() == (base_folder / "model_index.json").read_bytes()
        assert store.layout.root not in laid_out.parents
    assert not laid_out.exists()


def test_a_base_is_its_tensors_and_not_its_files(tmp_path, base_folder):
    first = base.inspect(base_folder, FAMILY)
    moved = base_folder / "unet/other-name.safetensors"
    (base_folder / "unet/diffusion_pytorch_model.safetensors").rename(moved)
    (base_folder / "unet/config.json").write_text("{}")
    assert base.inspect(base_folder, FAMILY).sha256 == first.sha256
    assert base.inspect(synthetic.write_base(tmp_path / "other", seed=1), FAMILY).sha256 != first.sha256


def written_otherwise(folder, half, rename, squeezed):
    """The same base as another program writes it."""
    for path in sorted(folder.rglob("*.safetensors")):
        tensors, _ = tensorfile.read_tensors(path)
        made = {"ids": tensorfile.Tensor("I64", (1, 1), bytes(8))}
        for name, tensor in tensors.items():
            array = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
            data = array.astype("<f2") if half else array
            shape = (*tensor.shape, 1, 1) if squeezed else tensor.shape
            made[rename(name)] = tensorfile.Tensor("F16" if half else "F32", shape, data.tobytes())
        path.write_bytes(b"".join(tensorfile.encode(made, {})))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("squeezed", [False, True])
def test_a_base_is_its_numbers_and_not_what_they_are_called(tmp_path, base_folder, half, squeezed):
    same = synthetic.write_base(tmp_path / "same")
    written_otherwise(same, half, lambda name: name.removeprefix("text_model."), squeezed)
    assert base.inspect(same, FAMILY).sha256 == base.inspect(base_folder, FAMILY).sha256


def test_a_number_changed_is_another_base(tmp_path, base_folder):
    other = synthetic.write_base(tmp_path / "other")
    path = other / "unet/diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert base.inspect(other, FAMILY).sha256 != base.inspect(base_folder, FAMILY).sha256


def test_only_what_a_pipeline_loads_is_taken(tmp_path, base_folder):
    """A folder as hubs have them: every form of every part, whole checkpoints, a safety checker, a picture."""
    plain = base_folder / "unet/diffusion_pytorch_model.safetensors"
    for name in ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
                 "unet/diffusion_pytorch_model-00001-of-00001.safetensors", "v1-5-pruned.safetensors",
                 "safety_checker/model.safetensors", "text_encoder_old/model.safetensors"):  # fmt: skip
        (base_folder / name).parent.mkdir(exist_ok=True)
        (base_folder / name).write_bytes(plain.read_bytes())
    for name in ("v1-5.ckpt", "safety_checker/pytorch_model.bin", "unet/diffusion_pytorch_model.bin", "README.md",
                 "safety_checker/config.json", "v1.yaml", "notes.json", "scheduler/scheduler_config.json"):  # fmt: skip
        (base_folder / name).parent.mkdir(exist_ok=True)
        (base_folder / name).write_text("{}")
    source = base.inspect(base_folder, FAMILY)
    assert sorted(source.weights) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert source.weights["unet/diffusion_pytorch_model.safetensors"] == plain
    assert sorted(source.texts) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "vae/config.json",
    ]


def test_a_variant_alone_is_taken_by_its_plain_name(base_folder):
    plain = base_folder / "unet/diffusion_pytorch_model.safetensors"
    half = plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    plain.with_name("diffusion_pytorch_model.non_ema.safetensors").write_bytes(half.read_bytes())
    assert base.inspect(base_folder, FAMILY).weights["unet/diffusion_pytorch_model.safetensors"] == half
    # Its parts are named by an index, which would name them wrongly.
    half.rename(plain.with_name("diffusion_pytorch_model.fp16-00001-of-00002.safetensors"))
    plain.with_name("diffusion_pytorch_model.non_ema.safetensors").unlink()
    with pytest.raises(ImportRefused) as caught:
        base.inspect(base_folder, FAMILY)
    assert "save_pretrained" in caught.value.hint


def test_a_store_is_made_once(store, base_folder):
    with pytest.raises(AlreadyExists):
        synthetic.make_store(store.layout.root, base_folder)


def test_a_folder_with_something_else_is_left_alone(tmp_path, base_folder):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(AlreadyExists):
        synthetic.make_store(tmp_path / "mine", base_folder)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_no_store(tmp_path):
    with pytest.raises(NotFound) as caught:
        Store(tmp_path / "nowhere")
    assert "init" in caught.value.hint


def test_a_newer_format_is_refused_unread(store):
    store.layout.format.write_text(f"{FORMAT_NUMBER + 1}\n")
    store.layout.index.write_bytes(b"not for this program")
    with pytest.raises(StoreTooNew):
        Store(store.layout.root)


def test_the_head_is_kept_twice(store):
    head = synthetic.learn(store, "alice")
    path = store.layout.manifest(head.seq, head.identity)
    path.chmod(0o600)
    path.write_bytes(b"{}")
    assert store.head() == head
    with pytest.raises(StoreDamaged):
        store.generation(head.seq)


def test_a_manifest_is_its_digest(store):
    head = store.head()
    assert decode(head.encoded, head.identity) == head
    with pytest.raises(StoreDamaged):
        decode(head.encoded + b" ", head.identity)


def test_one_writer(store):
    with store.writing("learn"), pytest.raises(Busy) as caught, store.writing("fold"):
        pass
    assert f"process {os.getpid()}" in str(caught.value)
    assert "learn" in str(caught.value)


def test_a_writer_can_wait(store):
    held, go = threading.Event(), threading.Event()

    def hold():
        with store.writing("learn"):
            held.set()
            go.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    threading.Timer(0.2, go.set).start()
    with store.writing("fold", wait=True):
        assert go.is_set()
    holder.join()


def test_reading_goes_on_while_somebody_writes(store):
    with store.writing("learn"), store.reading() as head:
        assert head.seq == 0


def test_blobs_stay_while_somebody_reads(store):
    with store.reading(), pytest.raises(Busy), locks.blobs_may_go(store.layout):
        pass


def test_a_commit_needs_its_blobs(store):
    synthetic.learn(store, "alice")
    with store.writing("test") as writer:
        concept = writer.head.concepts[0]
        store.layout.blob(concept.blob.sha256).unlink()
        with pytest.raises(StoreDamaged, match="alice"):
            writer.commit(writer.head.after(Action("test")))
    assert store.head().seq == 1


def test_a_blob_that_is_there_is_not_trusted(store):
    head = synthetic.learn(store, "alice")
    path = store.layout.blob(head.concepts[0].blob.sha256)
    good = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with store.writing("test") as writer:
        source = store.layout.root.parent / "alice"
        source.write_bytes(good)
        writer.add_file(source)
    assert path.read_bytes() == good
    assert len(list(store.layout.damaged.iterdir())) == 1


def test_what_a_killed_writer_left_is_tidied(store):
    (store.layout.tmp / "half").write_bytes(b"x")
    head = store.head()
    orphan = head.after(Action("learn", ("ghost",)))
    store.layout.manifest(orphan.seq, orphan.identity).write_bytes(orphan.encoded)
    with store.writing("test"):
        pass
    assert list(store.layout.tmp.iterdir()) == []
    assert len(list(store.layout.generations.iterdir())) == 1
    assert store.head() == head


@pytest.mark.parametrize("behind", [1, 2])
def test_an_old_index_put_back_is_noticed(store, behind):
    copies = []
    for name in ("alice", "bob"):
        copies.append(store.layout.index.read_bytes())
        synthetic.learn(store, name)
    store.layout.index.write_bytes(copies[-behind])
    with pytest.raises(StoreDamaged, match="older than"):
        synthetic.learn(store, "carol")
    assert len(list(store.layout.generations.iterdir())) == 3
    assert [problem.where for problem in verify(store.layout).problems] == ["index.db"]
    repair(store.layout)
    assert verify(store.layout).problems == ()
    assert [concept.name for concept in store.head().concepts] == ["alice", "bob"]


def test_weights_come_out_the_same_again(store):
    for seed, name in enumerate(("alice", "bob")):
        synthetic.learn(store, name, seed)
    first = fold(store).head
    assert first.folded is not None
    path = store.layout.blob(first.folded.sha256)
    bits = path.read_bytes()
    path.unlink()
    folded.ensure(store.layout, first)
    assert path.read_bytes() == bits
