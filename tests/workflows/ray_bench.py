"""Run by `test_bench_ray`: a benchmark on a Ray of two workers, one of which is killed while it learns."""

import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import ray

from conceptctl.workflows.bench.find import find_spec
from conceptctl.workflows.bench.run import run


def kill_one(output: Path, killed: list[int]) -> None:
    """Kill the first worker that has learned something and is not done."""
    while not killed:
        for path in output.glob("cells/*/drawn/*-learned.json"):
            cell = path.parents[1]
            if not (cell / "results.json").exists():
                pid = json.loads((cell / "starts.jsonl").read_text().splitlines()[-1])["pid"]
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
        time.sleep(0.01)


def main() -> None:
    # Its sockets need a short path; and it would count its use over the network.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="ray-") as place:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=place)
        try:
            measure()
        finally:
            ray.shutdown()


def measure() -> None:
    spec, output = find_spec(sys.argv[1]), Path(sys.argv[2])
    killed: list[int] = []
    threading.Thread(target=kill_one, args=(output, killed), daemon=True).start()
    ran = run(spec, output, engine="ray", device="cpu")
    pids = {
        json.loads(line)["pid"]
        for path in output.glob("cells/*/starts.jsonl")
        for line in path.read_text().splitlines()
    }
    print(json.dumps({"cells": [cell.key for cell in ran.cells], "killed": killed, "pids": len(pids)}))


if __name__ == "__main__":
    main()
