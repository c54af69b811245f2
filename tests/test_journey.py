"""The whole journey by its commands, on models in the shapes of Stable Diffusion 1.x and 2.x."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from conceptctl import presets
from conceptctl.cli.app import run
from tests.evaluated import write_heldout
from tests.pictures import write_pictures
from tests.small_presets import shipped_but
from tests.tiny_clip import write_tiny_clip
from tests.tiny_pipeline import write_tiny_pipeline

PHOTOGRAPHS = os.environ.get("CONCEPTCTL_PHOTOS")
PROMPT = "a photo of V*alice next to V*falls"


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """As a Stable Diffusion base has it, with fewer pictures and steps of each."""
    monkeypatch.setattr(presets, "shipped", shipped_but("sd", steps=2, auxiliary=3, reference_samples=4))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(params=["generated", "photographs"])
def pictures(request, tmp_path):
    """Two folders to learn from."""
    if request.param == "generated":
        return [write_pictures(tmp_path / "one", side=300), write_heldout(tmp_path, "two", count=5) / "two"]
    if not PHOTOGRAPHS:
        pytest.skip("CONCEPTCTL_PHOTOS names no folder of folders of photographs")
    return [path for path in sorted(Path(PHOTOGRAPHS).iterdir()) if path.is_dir()][:2]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_learn_fold_generate_eval_export(prediction_type, pictures, clip_folder, tmp_path, capsys):
    def command(*arguments):
        assert run([*map(str, arguments), "--json", "--store", str(tmp_path / "store")]) == 0
        return json.loads(capsys.readouterr().out)

    def drawn(folder, *options):
        answer = command("generate", PROMPT, "-n", 2, "-o", tmp_path / folder, "--device", "cpu", *options)
        return [np.asarray(Image.open(each["path"])) for each in answer["images"]]

    command("init", "--base", write_tiny_pipeline(tmp_path / "base", prediction_type=prediction_type))
    for name, folder in zip(("alice", "falls"), pictures, strict=True):
        settings = ["--class", "cat", "--steps", 20, "--batch-size", 2, "--learning-rate", "0.05", "--rank", 4]
        answer = command(
            "learn", folder, "--token", name, "--feature-extractor", clip_folder, "--device", "cpu", *settings
        )
        assert all(np.isfinite(answer["loss_curve"]))
        assert 0 < answer["settings"]["density"] < 1
    before = drawn("before")
    assert command("fold")["folded"] == ["alice", "falls"]
    after = drawn("after")
    assert all(map(np.array_equal, before, after))
    report = tmp_path / "report.html"
    heldout = [f"--images={name}={folder}" for name, folder in zip(("alice", "falls"), pictures, strict=True)]
    found = command(
        "eval", *heldout, "-n", 4, "--report", report, "--feature-extractor", clip_folder, "--device", "cpu"
    )
    assert {each["name"] for each in found["concepts"]} == {"alice", "falls"}
    assert found["A_mmd"] > 0
    assert found["F_mmd"] > 0
    assert {each["after_learning"] for each in found["concepts"]} == {"reference samples"}
    assert "<img" in report.read_text(encoding="utf-8")
    command("export", "--to", "diffusers", "--output", tmp_path / "whole")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "whole")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    theirs = pipeline(PROMPT, num_inference_steps=2, guidance_scale=7.5, generator=generator).images[0]
    # That program draws from the prompt alone.
    assert np.array_equal(np.asarray(theirs), drawn("plain", "--prompt-only")[0])
    assert not np.array_equal(np.asarray(theirs), after[0])
    assert command("verify", "--read-data")["problems"] == []


@pytest.mark.skipif(not PHOTOGRAPHS, reason="CONCEPTCTL_PHOTOS names no folder of folders of photographs")
def test_photographs_are_learned_on_the_bundled_base(tmp_path, capsys):
    folder = next(path for path in sorted(Path(PHOTOGRAPHS or "").iterdir()) if path.is_dir())
    store = ["--store", str(tmp_path / "store"), "--device", "cpu", "--json"]
    assert run(["init", "--base", "pocket", "--json", "--store", str(tmp_path / "store")]) == 0
    capsys.readouterr()
    assert run(["learn", str(folder), "--token", "thing", "--steps", "60", "--aux", "8", *store]) == 0
    curve = json.loads(capsys.readouterr().out)["loss_curve"]
    # Means of ten steps each, the first and the last ones.
    assert curve[-1] < 0.9 * curve[0]
    assert run(["generate", "a photo of V*thing", "-o", str(tmp_path / "out"), *store]) == 0
