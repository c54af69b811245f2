"""The two checks of diffusion-classifier scores in a benchmark's cells."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conceptctl.errors import StoreDamaged
from conceptctl.learning.examples import Examples
from conceptctl.workflows.bench import classifier_scores
from conceptctl.workflows.bench.noted import read_results
from conceptctl.workflows.bench.spec import shipped
from tests.workflows.small_bench import cli, write_small_bench

SPEC = """
title = "Scores"
base = "{home}/base"
feature_extractor = "{home}/clip"
precision = "no"

[data]
folder = "concepts"

[protocol]
steps = 5
batch_size = 2
pictures = 2
sampling_steps = 1
evaluations = 2
classified = 2
fisher = 6

[methods.lora]
settings = {{ auxiliary_batch = 0, rank = 2 }}
[methods.ewc-dc]
settings = {{ auxiliary_batch = 0, rank = 2 }}
[methods.alone]
method = "ewc"
alone = true
settings = {{ auxiliary_batch = 0, rank = 2 }}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("scores")
    write_small_bench(home)
    path = home / "scores.toml"
    path.write_text(SPEC.format(home=home))
    code, _ = cli("bench", "run", path, "--output", home / "bench")
    assert code == 0
    return home


def results(home, method):
    (path,) = (home / "bench/cells").glob(f"{method}-0-*/results.json")
    return path, json.loads(path.read_text())


def test_cells_classify_whenever_all_are_drawn_and_measure_the_fisher_matrix_where_there_is_one(finished):
    _, lora = results(finished, "lora")
    _, ewc_dc = results(finished, "ewc-dc")
    _, alone = results(finished, "ewc")
    for found in (lora, ewc_dc):
        assert [(each["after"], len(each["right"])) for each in found["classified"]] == [(2, 2), (3, 3)]
        # Three pictures of each.
        assert all(round(3 * share, 6) in (0, 1, 2, 3) for each in found["classified"] for share in each["right"])
    assert "fisher" not in lora
    for which in ("without", "with"):
        for factor in ("A", "B"):
            values = ewc_dc["fisher"][which][factor]
            assert len(values) == 5
            assert values == sorted(values, reverse=True)
            assert values[0] > 0
    assert ewc_dc["fisher"]["with"] != ewc_dc["fisher"]["without"]
    # In models of their own there is nothing to choose from, and nothing came before.
    assert not {"classified", "fisher"} & set(alone)


def test_a_cell_that_goes_on_checks_nothing_twice(finished, monkeypatch):
    path, before = results(finished, "ewc-dc")
    path.unlink()
    monkeypatch.setattr(classifier_scores, "accuracies", None)
    monkeypatch.setattr(classifier_scores, "eigenvalues", None)
    assert cli("bench", "run", finished / "scores.toml", "--output", finished / "bench")[0] == 0
    again = results(finished, "ewc-dc")[1]
    assert [again[name] for name in ("classified", "fisher")] == [before[name] for name in ("classified", "fisher")]


def test_the_report_has_both(finished):
    assert cli("bench", "report", finished / "bench")[0] == 0
    text = (finished / "bench/report/report.md").read_text()
    assert "Training pictures classified right by their scores" in text
    assert "| method | after 2 | after 3 |" in text
    assert sum(line.startswith(("| ewc-dc | A |", "| ewc-dc | B |")) for line in text.splitlines()) == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found["classified"][0]["right"].pop(),
        lambda found: found["classified"][0].update(right=["all"]),
        lambda found: found["classified"].pop(0),
        lambda found: found["classified"].__setitem__(0, {"after": 0, "right": []}),
        lambda found: found["fisher"].pop("with"),
        lambda found: found["fisher"]["with"].update(A="much"),
    ],
)
def test_damaged_checks_are_named(finished, spoil):
    path, found = results(finished, "ewc-dc")
    text = path.read_text()
    spoil(found)
    path.write_text(json.dumps(found))
    try:
        with pytest.raises(StoreDamaged, match=r"classified|fisher|right|with|A"):
            read_results(path, classes=False)
    finally:
        path.write_text(text)


class Backbone:
    """Predicts under a prompt the number that the prompt is; a picture of that number has no error."""

    def freeze(self):
        pass

    def objective(self, noising):
        return SimpleNamespace(
            corrupt=lambda latents, generator: latents + 0.1 * torch.rand(len(latents), 1, 1, 1, generator=generator),
            predict=lambda noised, condition: condition,
            errors=lambda predicted, noised: (noised.mean(dim=(1, 2, 3)) - predicted).abs(),
        )

    def conditions(self, prompts, token_ids, crops):
        return SimpleNamespace(of_prompt=lambda prompt, indices: torch.full((len(indices),), float(prompt)))


def examples(*values):
    """Pictures of different shapes that show a number each."""
    latents = [torch.full((4, 2 + place % 2, 2), float(value)) for place, value in enumerate(values)]
    return Examples(latents, ["?"] * len(latents), len(latents))


def test_a_picture_counts_for_the_prompt_of_the_smallest_error():
    pictures = [examples(0, 0, 0), examples(1, 1, 2), examples(2, 0, 1, 2)]
    right = classifier_scores.accuracies(Backbone(), ["0", "1", "2"], pictures, 3, 2)
    assert right == pytest.approx([1, 2 / 3, 1 / 2])


def test_eigenvalues_are_those_of_the_mean_outer_product():
    gradients = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    fisher = np.mean([np.outer(each, each) for each in gradients.double().numpy()], axis=0)
    assert classifier_scores._largest(gradients) == pytest.approx(np.linalg.eigvalsh(fisher)[::-1][:4])


def test_which_methods_have_such_a_matrix():
    named = {"ewc": True, "ewc-dc": True, "dsc-ewc-dc": True, "dsc": False, "cd-ewc": False}
    assert {name: classifier_scores.has_fisher(name) for name in named} == named
    assert shipped()["dc-checks"].protocol.classified > 0
