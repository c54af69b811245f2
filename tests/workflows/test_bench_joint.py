"""Joint training in `bench run`: all concepts at once, as an upper bound."""

import json
import signal

import pytest

from conceptctl import presets
from conceptctl.errors import UsageError
from conceptctl.workflows.bench import joint
from conceptctl.workflows.bench.spec import parsed
from tests.small_presets import shipped_but
from tests.workflows.small_bench import CONCEPTS, cli, write_small_bench

BOUND = 'method = "lora"\nalone = true'
JOINT = 'method = "cd"\njoint = true'


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    spec = write_small_bench(folder)
    spec.write_text(spec.read_text().replace(BOUND, JOINT))
    return folder


def run(home, output, spec="tiny.toml", cells="bound"):
    return cli("bench", "run", home / spec, "-o", home / output, "--cells", cells, "--device", "cpu")


def results(home, output):
    (path,) = (home / output).glob("cells/*/results.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def whole(home):
    code, said = run(home, "whole")
    assert code == 0, said
    return results(home, "whole")


def test_all_concepts_are_learned_at_once_and_measured_once(whole):
    assert (whole["cell"]["joint"], whole["cell"]["alone"], whole["evaluations"]) == (True, False, [])
    assert len(whole["learned"]) == len(whole["tasks"]) == CONCEPTS
    for figures in whole["learned"]:
        assert figures["A_mmd"] > 0 and figures["kid"] is not None
        assert (figures["F_mmd"], figures["BwT_mmd"], figures["P_mmd"]) == (None, None, None)
    first, *others = whole["tasks"]
    assert first["changed"] > 0 and first["n_param_trained"] == pytest.approx(first["changed"], rel=0.01)
    assert all({**each, "name": ""} == {**first, "name": ""} for each in others)
    # What is kept is shared by all.
    assert first["n_param_stored"] * CONCEPTS >= first["changed"]


def test_it_goes_on_where_it_was_stopped(home, whole, monkeypatch):
    steps = []

    class Stopping(joint.Pace):
        def step(self, done):
            super().step(done)
            steps.append(done)
            if len(steps) == 4:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(joint, "Pace", Stopping)
    assert run(home, "stopped")[0] == 130
    monkeypatch.undo()
    monkeypatch.setattr(joint, "Pace", type("Counting", (joint.Pace,), {"step": lambda self, done: steps.append(done)}))
    assert run(home, "stopped")[0] == 0
    assert steps == list(range(1, 3 * CONCEPTS + 1))
    found = results(home, "stopped")
    assert found["learned"] == whole["learned"] and found["tasks"][0]["seconds"] is None
    (cell,) = (home / "stopped/cells").iterdir()
    assert not list((cell / "store/jobs").iterdir())


def test_of_one_concept_it_is_that_concept_alone(home, monkeypatch):
    """With the pictures' descriptions and the auxiliary pictures, on the bundled base."""
    monkeypatch.setattr(presets, "shipped", shipped_but("pocket", steps=1, auxiliary=2))
    spec = home / "one.toml"
    spec.write_text(
        "seeds = [3]\n[data]\nconcepts = 1\ntrain = 3\nheldout = 2\n"
        "[protocol]\nsteps = 2\nbatch_size = 2\npictures = 2\nsampling_steps = 1\n"
        '[settings]\ntimestep_sampling = "uniform"\n'
        '[methods.lora]\nalone = true\n[methods.together]\nmethod = "lora"\njoint = true\n'
    )
    code, said = run(home, "one", "one.toml", "*")
    assert code == 0, said
    found = {path.parent: json.loads(path.read_text()) for path in (home / "one").glob("cells/*/results.json")}
    alone, together = sorted(found.values(), key=lambda each: each["cell"].get("joint", False))
    assert alone["learned"][0]["A_mmd"] == together["learned"][0]["A_mmd"]
    assert alone["learned"][0]["attributes"] == together["learned"][0]["attributes"]
    for cost in ("n_param_trained", "n_param_trained_with_token", "changed", "stored_bytes"):
        assert alone["tasks"][0][cost] == together["tasks"][0][cost]


def test_the_report_says_what_it_is_an_upper_bound_of(home, whole):
    assert run(home, "whole", cells="lora")[0] == 0
    code, said = cli("bench", "report", home / "whole")
    assert code == 0, said
    bound = said["benches"][0]["rows"]["bound"]["0"]
    assert bound["A_mmd"] and all(bound[name] is None for name in ("F_mmd", "BwT_mmd", "P_mmd", "success_learned"))
    text = (home / "whole/report/report.md").read_text()
    assert "A_mmd above that of bound, all concepts at once: lora " in text


@pytest.mark.parametrize("method", ["ewc-dc", "dsc", "cd-merged", "lora-merge", "stamina-anchored"])
def test_a_method_with_more_to_do_is_refused_before_anything_runs(home, method):
    spec = home / f"{method}.toml"
    spec.write_text((home / "tiny.toml").read_text().replace(JOINT, f'method = "{method}"\njoint = true'))
    code, said = run(home, "refused", spec.name)
    assert code == 2 and f"{method} does more than learn" in said["error"]["message"], said
    assert not (home / "refused/cells").exists()


def test_a_row_is_one_upper_bound():
    with pytest.raises(UsageError, match="alone and joint"):
        parsed("mine", {"data": {"concepts": 2}, "methods": {"lora": {"alone": True, "joint": True}}})
