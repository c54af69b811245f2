"""Two processes do what one does: the same global batch, the same pictures, one of them writes."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conceptctl.cli import app
from conceptctl.learning.processes import part_of
from conceptctl.store import base, jobs, weights
from conceptctl.store.concept import read_record
from conceptctl.store.tensorfile import read_header
from conceptctl.store.verify import verify
from tests import synthetic
from tests.pictures import write_pictures
from tests.tiny_clip import write_tiny_clip
from tests.tiny_pipeline import write_tiny_pipeline

STEPS = 12
TOLERANCE = 5e-3
"""Of the difference over the size: sums are made in another order, and Adam divides by what is nearly nothing."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with pictures for each purpose, a tiny base, and a tiny CLIP model."""
    root = tmp_path_factory.mktemp("processes")
    write_pictures(root / "photos", side=256)
    write_pictures(root / "heldout" / "alice", count=5, side=256)
    write_tiny_pipeline(root / "base")
    write_tiny_clip(root / "clip")
    return root


@pytest.fixture
def stores(made, tmp_path):
    return [synthetic.make_store(tmp_path / str(index), made / "base") for index in range(2)]


def launched(arguments):
    """The command that users give: one that makes two processes."""
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--multi_gpu", "--main_process_port", port()]
    return [sys.executable, *launch, *program(arguments)]


def program(arguments):
    return ["-m", "conceptctl", *map(str, arguments)]


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def environment(**more):
    own = {
        "OMP_NUM_THREADS": "1",
        "CONCEPTCTL_CONFIG": os.devnull,
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {**os.environ, **own, **more}


def start(arguments):
    """Two processes as a launcher starts them, which itself takes as long to start as each of them."""
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port(), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, *program(arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **meet),
        )
        for rank in range(2)
    ]


def run(arguments, processes):
    """What the command prints, of all its processes."""
    if processes == 1:
        return alone(arguments)
    said = ""
    started = start(arguments)
    try:
        for process in started:
            out, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
            said += out
    finally:
        # One that failed leaves the other waiting for it.
        for process in started:
            process.kill()
    return said


def alone(arguments):
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("CONCEPTCTL_CONFIG", os.devnull)
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert app.run([str(each) for each in arguments]) == 0
    return printed.getvalue()


def learning(made, store, method, *more):
    # Five pictures of a step over two processes: three, of which one is auxiliary, and two.
    settings = ["--set", "auxiliary_batch=2", "--batch-size", "3", "--learning-rate", "1e-2", "--rank", "4"]
    how = ["--class", "cat", "--aux", "9", "--mixed-precision", "no", "--device", "cpu", "--steps", STEPS]
    where = ["--feature-extractor", made / "clip", "--store", store.layout.root]
    preset = ["--preset", made / "quick.toml"]
    return ["learn", made / "photos", "--token", "alice", "--method", method, *settings, *how, *where, *preset, *more]


@pytest.fixture(scope="module", autouse=True)
def _few_reference_samples(made):
    (made / "quick.toml").write_text("[learn]\nreference_samples = 12\n")


def learned(store):
    path = store.blob(store.concept("alice"), read=True)
    found = base.tensors(store.layout, store.head().base)
    shapes = {place: info.shape for place, (_, _, info) in found.items()}
    deltas = [whole(delta).ravel() for _, delta in weights.read_deltas(path, shapes)]
    state = [each.ravel() for _, each in sorted(weights.read_state(path).items())]
    return {
        "token": weights.read_floats(path, "token"),
        **({"features": weights.read_floats(path, "features")} if "features" in read_header(path).tensors else {}),
        **({"deltas": np.concatenate(deltas)} if deltas else {}),
        **({"state": np.concatenate(state)} if state else {}),
    }


def whole(delta):
    made = np.zeros(delta.mask.shape, np.float32)
    made[delta.mask] = delta.values
    return made


def far(first, second):
    return np.linalg.norm(first - second) / np.linalg.norm(second)


@pytest.mark.parametrize(
    ("method", "more"),
    # The last one's second process has auxiliary samples alone, on which no token depends.
    [("stamina", []), ("ewc-dc", []), ("ti++", ["--batch-size", "2"])],
)
def test_two_startedlearn_what_one_does(made, stores, method, more):
    said = [run(learning(made, store, method, *more), count) for store, count in zip(stores, (1, 2), strict=True)]
    one, two = map(learned, stores)
    assert one.keys() == two.keys()
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in two.items()}
    assert all(far(two[name], value) < TOLERANCE for name, value in one.items()), {
        name: far(two[name], value) for name, value in one.items()
    }
    # One process says and writes everything.
    assert said[1].count("learned V*alice") == said[0].count("learned V*alice") == 1
    assert [generation.verb for generation in stores[1].log()] == ["init", "learn"]
    assert verify(stores[1].layout, read_data=True).problems == ()
    assert list(stores[1].layout.jobs.iterdir()) == []


def test_two_startedend_after_the_same_step(made, stores):
    """Each of them looks at its part of the fixed sets, and none goes on when another has ended."""
    more = ["--steps", "auto", "--max-train-steps", "24"]
    for store, count in zip(stores, (1, 2), strict=True):
        run(learning(made, store, "lora", *more), count)
    one, two = map(learned, stores)
    assert all(far(two[name], value) < TOLERANCE for name, value in one.items())
    records = [read_record(store.blob(store.concept("alice"))) for store in stores]
    assert records[0].steps == records[1].steps
    for name in ("fixed_loss", "fixed_class_loss"):
        assert np.allclose(*(record.settings[name] for record in records), rtol=1e-4)


def test_two_startedlearn_what_one_does_of_pictures_of_several_shapes(made, tmp_path):
    """However shapes lie in the parts: of five pictures in a step three are in the first, two in the second."""
    write_tiny_pipeline(tmp_path / "base", side=256, levels=4)
    stores = [synthetic.make_store(tmp_path / str(index), tmp_path / "base") for index in range(2)]
    (tmp_path / "photos").mkdir()
    for index, size in enumerate([(256, 340), (340, 256), (256, 256), (300, 400)]):
        with Image.open(made / "photos" / f"{index}.png") as picture:
            picture.resize(size).save(tmp_path / "photos" / f"{index}.png")
    for store, count in zip(stores, (1, 2), strict=True):
        arguments = learning(made, store, "stamina", "--steps", "6", "--aux", "2")
        (tmp_path / "quick.toml").write_text("[learn]\nreference_samples = 0\n")
        arguments[1] = tmp_path / "photos"
        arguments[arguments.index(made / "quick.toml")] = tmp_path / "quick.toml"
        run(arguments, count)
    one, two = map(learned, stores)
    assert one.keys() == two.keys() == {"token", "deltas"}
    assert all(far(two[name], value) < TOLERANCE for name, value in one.items())


def test_a_batch_that_cannot_be_spread_is_refused_before_anything_is_learned(made, stores):
    """Which also shows that there are two processes: one could have it."""
    arguments = launched(learning(made, stores[0], "ewc", "--batch-size", "1"))
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, env=environment(), check=False)
    assert done.returncode != 0
    assert "cannot be spread over 2 processes" in done.stderr
    assert list(stores[0].layout.jobs.iterdir()) == []


def test_an_evaluation_is_the_same_however_many_starteddraw(made, stores, tmp_path):
    run(learning(made, stores[0], "ti++"), 1)
    figures = []
    for processes in (1, 2):
        where = ["--feature-extractor", made / "clip", "--store", stores[0].layout.root]
        found = json.loads(run(["eval", made / "heldout", "-n", "12", "--device", "cpu", "--json", *where], processes))
        figures.append({name: found[name] for name in ("A_mmd", "F_mmd", "P_mmd", "kid", "clip_i2i", "diversity")})
    assert figures[0] == figures[1]
    assert [each.verb for each in stores[0].log()] == ["init", "learn", "eval", "eval"]


def test_an_interrupted_run_of_two_startedgoes_on(made, stores, tmp_path):
    """With SIGINT to all of them, as a terminal sends it."""
    more = ["--steps", "100"]
    run(learning(made, stores[0], "stamina", *more), 2)
    interrupted = subprocess.Popen(
        launched(learning(made, stores[1], "stamina", *more, "--log-to", tmp_path / "log")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    # A row is written every few steps; what is printed comes too seldom for a fast machine.
    while rows_of_tables(tmp_path / "log") == 0:
        assert interrupted.poll() is None
        time.sleep(0.005)
    os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(timeout=60) != 0
    assert stores[1].head().seq == 0
    (job,) = jobs.found(stores[1].layout)
    assert 0 < job.load().step < 100
    run(learning(made, stores[1], "stamina", *more), 2)
    wanted, found = map(learned, stores)
    assert all(np.array_equal(found[name], value) for name, value in wanted.items())


def rows_of_tables(folder):
    """The rows below the headings of all tables in a folder that may not be there yet: a walk forgives that."""
    tables = [Path(root, name) for root, _, names in os.walk(folder) for name in names if name.endswith(".csv")]
    return sum(max(0, table.read_text().count("\n") - 1) for table in tables)


@pytest.mark.parametrize(("count", "processes"), [(8, 1), (5, 2), (3, 3), (2, 4)])
def test_parts_of_a_batch_are_all_of_it(count, processes):
    class Of:
        def __init__(self, index):
            self.process_index, self.num_processes = index, processes

    parts = [part_of(Of(index), count) for index in range(processes)]
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    assert max(part.stop - part.start for part in parts) - min(part.stop - part.start for part in parts) <= 1
