import pytest

from conceptctl.store import jobs
from conceptctl.store.tensorfile import Tensor


@pytest.fixture
def job(store):
    return jobs.start(store.layout, {"name": "alice", "steps": 500})


def save(job, step):
    job.save(step, {"w": Tensor("U8", (3,), bytes([step] * 3))}, {"at": step})


def test_the_same_settings_find_the_same_job(store, job):
    save(job, 7)
    again = jobs.start(store.layout, {"name": "alice", "steps": 500})
    assert again.folder == job.folder
    slot = again.load()
    assert (slot.step, slot.state, bytes(slot.tensors["w"].data)) == (7, {"at": 7}, b"\7\7\7")
    assert jobs.start(store.layout, {"name": "alice", "steps": 600}).load() is None


def test_two_slots_in_turn(job):
    for step in range(5):
        save(job, step)
        assert job.load().step == step
    assert {slot.name for slot in job.folder.iterdir()} == {"a", "b", "job.json"}


@pytest.mark.parametrize("hit", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("how", ["cut", "gone", "flipped"])
def test_a_damaged_slot_leaves_the_other(job, hit, how):
    save(job, 1)
    save(job, 2)
    slot = max(job.folder.glob(f"*/{hit}"), key=lambda path: path.stat().st_mtime_ns)
    good = slot.read_bytes()
    if how == "gone":
        slot.unlink()
    elif how == "cut":
        slot.write_bytes(good[:-3])
    else:
        slot.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert job.load().step == 1


def test_a_finished_job_is_gone(store, job):
    save(job, 1)
    job.finish()
    assert list(store.layout.jobs.iterdir()) == []


def test_digests_mean_nothing_outside_the_job(store, job):
    other = jobs.start(store.layout, {"name": "bob"})
    assert job.digest(b"photo") == job.digest(b"photo")
    assert job.digest(b"photo") != other.digest(b"photo")


def test_unreadable_jobs_are_passed_over(store, job):
    (store.layout.jobs / "broken").mkdir()
    (store.layout.jobs / "odd").mkdir()
    (store.layout.jobs / "odd/job.json").write_text("[]")
    assert [each.folder for each in jobs.found(store.layout)] == [job.folder]
