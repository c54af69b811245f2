"""A benchmark of tiny random models that takes seconds: three concepts, two methods."""

import contextlib
import io
import json

from conceptctl.cli.app import run
from tests.evaluated import write_heldout
from tests.tiny_clip import write_tiny_clip
from tests.tiny_pipeline import write_tiny_pipeline

CONCEPTS = 3
SPEC = """
title = "Tiny"
base = "{home}/base"
feature_extractor = "{home}/clip"
seeds = {seeds}
precision = "no"

[data]
folder = "concepts"

[protocol]
steps = 3
batch_size = 2
pictures = 3
sampling_steps = 1
evaluations = 2
pairs = 1

[methods.lora]
settings = {{ auxiliary_batch = 0, rank = 2 }}
[methods."ti++"]
settings = {{ auxiliary_batch = 0 }}
[methods.bound]
method = "lora"
alone = true
settings = {{ auxiliary_batch = 0 }}

[paper]
source = "nowhere"
[paper.values.lora]
A_mmd = 3.25
"""


def cli(*arguments):
    """Run one command line in this process: its exit code, and the JSON that it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        code = run([*map(str, arguments), "--json"])
    return code, json.loads(printed.getvalue())


def write_small_bench(home, seeds=(0,)):
    """Write a base, a CLIP model, pictures and a spec; return the spec's path."""
    write_tiny_pipeline(home / "base")
    write_tiny_clip(home / "clip")
    names = [f"thing-{number}" for number in range(CONCEPTS)]
    for name in names:
        for part in ("train", "heldout"):
            write_heldout(home / "concepts", name, 3, part)
    listing = {"concepts": [{"name": name, "class": "person"} for name in names]}
    (home / "concepts/concepts.json").write_text(json.dumps(listing))
    path = home / "tiny.toml"
    path.write_text(SPEC.format(home=home, seeds=list(seeds)))
    return path


def learned(store):
    """The names that were learned in a store, each as often as it was."""
    return [row.subject for row in store.log() if row.verb == "learn"]
