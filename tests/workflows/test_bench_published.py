"""Results that are published here: they are of shipped specs, and a report can be made of them."""

import json
import shutil
from pathlib import Path

import pytest

from conceptctl.workflows.bench.find import shipped
from conceptctl.workflows.bench.report import write_report

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


@pytest.mark.parametrize("folder", sorted(RESULTS.iterdir()), ids=lambda folder: folder.name)
def test_published_results(folder, tmp_path):
    published = tmp_path / folder.name
    for path in (*folder.glob("runs/*.json"), *folder.glob("cells/*/results.json")):
        target = published / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    cells = {path.parent.name for path in published.glob("cells/*/results.json")}
    write_report(published, tmp_path / "report")
    report = (tmp_path / "report/report.md").read_text(encoding="utf-8")
    listed = set()
    for path in published.glob("runs/*.json"):
        run = json.loads(path.read_text())
        spec = shipped()[run["spec"]["name"]]
        assert {entry["label"] for entry in run["spec"]["entries"]} == {entry.label for entry in spec.entries}
        finished = {row.rpartition("/")[0] for row, cell in run["cells"].items() if cell in cells}
        assert finished
        assert all(f"| {label} |" in report for label in finished)
        listed |= set(run["cells"].values())
    assert cells <= listed
