"""The store's figures: how fast its verbs start, how fast it commits, how it grows.

Run `python benchmarks/store.py`; `--concepts 50` for a quick look at growth. Prints Markdown tables.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conceptctl.store import base, tensorfile, weights
from conceptctl.store.factors import smaller
from conceptctl.workflows.adding import add_concept
from conceptctl.workflows.fold import fold
from tests import synthetic

CLI = str(Path(sys.executable).with_name("conceptctl"))
ROUNDS = 10


IMPORTS = [sys.executable, "-c", "import typer, rich"]
"""What a verb's start is measured against."""


def seconds(commands: list[list[str]]) -> list[tuple[float, float]]:
    """Return the median wall time and the median processor time of each command.

    They take turns, so that what else the machine does hits all of them. Where it does much, the wall time says how
    busy it is and the processor time says how much there is to do.
    """
    taken: list[list[tuple[float, float]]] = [[] for _ in commands]
    for _ in range(ROUNDS):
        for command, times in zip(commands, taken, strict=True):
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return [(statistics.median(wall for wall, _ in each), statistics.median(cpu for _, cpu in each)) for each in taken]


def startup(folder: Path) -> None:
    store = synthetic.make_store(folder / "many", synthetic.write_base(folder / "base"))
    for number in range(1000):
        synthetic.learn(store, f"concept-{number}", number)
    where = ["--store", str(folder / "many")]
    verbs = [["--help"], ["list", *where], ["list", "--json", *where], ["log", *where]]
    names = ["--help", "list", "list --json", "log"]
    (wall, cpu), *taken = seconds([IMPORTS, *([CLI, *verb] for verb in verbs)])
    print(f"\n| 1,000 concepts, median of {ROUNDS} | wall time, s | over the imports | processor time, s | over them |")
    print("|---|---|---|---|---|")
    print(f"| `python -c 'import typer, rich'` | {wall:.3f} | | {cpu:.3f} | |")
    for name, (wall_of, cpu_of) in zip(names, taken, strict=True):
        print(f"| `conceptctl {name}` | {wall_of:.3f} | {wall_of - wall:+.3f} | {cpu_of:.3f} | {cpu_of - cpu:+.3f} |")
    manifests = sum(map(_size, (folder / "many/gens").iterdir()))
    print(f"\n1,001 manifests: {manifests / 1e6:.1f} MB; index.db: {_size(folder / 'many/index.db') / 1e6:.2f} MB")


def _size(path: Path) -> int:
    return path.stat().st_size


def commit(folder: Path) -> None:
    """Commit a full delta of Stable Diffusion 1.x, and write and hash the same bytes with the system's own tools."""
    shapes = synthetic.sd1_shapes()
    store = synthetic.make_store(folder / "one", synthetic.write_base(folder / "sd", shapes, width=768))
    ours, theirs = [], []
    for number in range(ROUNDS):
        deltas = synthetic.deltas(shapes, number, 1.0)
        record = synthetic.record(store, f"concept-{number}", number)
        tensors = weights.concept_tensors(deltas, np.zeros((1, 768), np.float32))
        start = time.perf_counter()
        with store.writing("learn") as writer:
            head = add_concept(writer, "learn", record, writer.add_tensors(tensors, record.metadata()))
        ours.append(time.perf_counter() - start)
        blob, copy = store.blob(head.concepts[-1]), folder / "copy"
        start = time.perf_counter()
        subprocess.run(["dd", f"if={blob}", f"of={copy}", "bs=1M", "conv=fsync"], stderr=subprocess.DEVNULL, check=True)
        subprocess.run(["sha256sum", str(copy)], stdout=subprocess.DEVNULL, check=True)
        theirs.append(time.perf_counter() - start)
        size = _size(blob)
        copy.unlink()
    mine, yours = statistics.median(ours), statistics.median(theirs)
    print(f"\n| {size / 1e6:.1f} MB, median of {ROUNDS} | seconds | ratio |\n|---|---|---|")
    print(f"| `dd conv=fsync` and `sha256sum` | {yours:.3f} | 1 |\n| commit | {mine:.3f} | {mine / yours:.2f} |")


def growth(folder: Path, concepts: int) -> None:
    """Learn many concepts of Stable Diffusion 1.x shape, each changing 20 % of the K and V weights."""
    shapes = synthetic.sd1_shapes()
    store = synthetic.make_store(folder / "large", synthetic.write_base(folder / "sd20", shapes, width=768))
    start = time.perf_counter()
    for number in range(concepts):
        synthetic.learn(store, f"concept-{number}", number, shapes=shapes, width=768, density=0.2)
    learned = time.perf_counter() - start
    start = time.perf_counter()
    fold(store)
    folded = time.perf_counter() - start
    base = sum(ref.size for ref in (*store.head().base.files.values(), store.head().base.texts))
    total = sum(path.stat().st_size for path in store.layout.root.rglob("*") if path.is_file())
    (wall, cpu), (wall_of, cpu_of) = seconds([IMPORTS, [CLI, "list", "--store", str(store.layout.root)]])
    print(f"\n| {concepts} concepts of SD 1.x shape, 20 % density | |\n|---|---|")
    print(f"| store without its base | {(total - base) / 1e6:,.0f} MB; {concepts} x 20 MB = {concepts * 20:,} MB |")
    print(f"| a concept | {(total - base) / 1e6 / concepts:.2f} MB |")
    print(f"| `list` over the imports | {wall_of - wall:+.3f} s, processor {cpu_of - cpu:+.3f} s |")
    print(
        f"| making them, at the last | {learned / concepts:.2f} s a concept |\n| folding all of them | {folded:.0f} s |"
    )


def forms(folder: Path) -> None:
    """What a concept of rank 16 takes at Stable Diffusion 1.x's shapes, as entries and as factors; processor time."""
    shapes = synthetic.sd1_shapes()
    store = synthetic.make_store(folder / "forms", synthetic.write_base(folder / "sd-forms", shapes, width=768))
    found = base.tensors(store.layout, store.head().base)
    start = {place: (path, name) for place, (path, name, _) in found.items()}
    print(
        "\n| rank 16, SD 1.x shape | entries, MB | factors, MB | adding entries, s | adding factors, s | choosing, s |"
    )
    print("|---|---|---|---|---|---|")
    for what, density in (("LoRA", 1.0), ("STAMINA, 50 % pass", 0.5), ("STAMINA, 20 % pass", 0.2)):
        made = synthetic.factors(shapes, 0, 16, density)
        dense = {place: each.product() for place, each in made.items()}
        begin = time.process_time()
        for place, each in made.items():
            assert smaller(each.up, each.down, each.mask, dense[place]) is not None
        choosing = time.process_time() - begin
        entries = {place: weights.Delta.of(each) for place, each in dense.items()}
        files = []
        for name, deltas in (("entries", entries), ("factors", made)):
            files.append(folder / f"{name}-{density}.safetensors")
            files[-1].write_bytes(b"".join(tensorfile.encode(weights.delta_tensors(deltas), {})))
        without = _summing(start, [], found)
        taken = [_summing(start, [path], found) - without for path in files]
        sizes = " | ".join(f"{_size(path) / 1e6:.2f}" for path in files)
        print(f"| {what} | {sizes} | {taken[0]:.2f} | {taken[1]:.2f} | {choosing:.2f} |")


def _summing(start: dict[str, tuple[Path, str]], concepts: list[Path], places: Iterable[str]) -> float:
    """Processor seconds for all weights with some concepts in them, median of five."""
    taken = []
    for _ in range(5):
        begin = time.process_time()
        sums = weights.Sums(start, concepts)
        for place in places:
            if place in sums:
                sums[place]
            elif place.endswith(("to_k.weight", "to_v.weight")):
                weights.read_floats(*start[place])
        taken.append(time.process_time() - begin)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", type=int, default=500, help="how many for growth; each takes 18 MB of disk")
    parser.add_argument("--only", choices=("startup", "commit", "growth", "forms"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="conceptctl-bench-", dir=Path.home()))
    try:
        if options.only in (None, "startup"):
            startup(folder)
        if options.only in (None, "commit"):
            commit(folder)
        if options.only in (None, "forms"):
            forms(folder)
        if options.only in (None, "growth"):
            growth(folder, options.concepts)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
