"""`bench run --engine ray`: on a real Ray."""

import json
import subprocess
import sys

from conceptctl.store.store import Store
from tests.workflows.small_bench import CONCEPTS, cli, learned, write_small_bench


def test_a_killed_worker_loses_no_cell_and_doubles_none(tmp_path):
    spec = write_small_bench(tmp_path, seeds=(0, 1))
    output = tmp_path / "out"
    command = [sys.executable, "-m", "tests.workflows.ray_bench", str(spec), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    # Cells of bound/0 and bound/1 included, each a method with a seed of its own.
    assert len(said["killed"]) == 1 and said["pids"] > 1
    assert len(set(said["cells"])) == 6
    starts = 0
    for key in said["cells"]:
        cell = output / "cells" / key
        found = json.loads((cell / "results.json").read_text())
        starts += found["starts"]
        stores = [cell / "store"] if (cell / "store").exists() else sorted((cell / "stores").iterdir())
        names = [name for place in stores for name in learned(Store(place))]
        assert names == [f"thing-{number}" for number in range(CONCEPTS)]
    assert starts == len(said["cells"]) + 1


def test_without_ray_it_is_said_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, said = cli("bench", "run", "smoke", "-o", tmp_path / "out", "--engine", "ray")
    assert code == 5 and "pip install 'conceptctl[ray]'" in said["error"]["hint"]
    assert not (tmp_path / "out").exists()
