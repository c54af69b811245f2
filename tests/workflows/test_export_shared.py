"""What `export` writes for other programs, of a store with something learned: numbers, names, real clients."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

from conceptctl.cli.app import run
from conceptctl.errors import AlreadyExists, NotFound, UsageError
from conceptctl.formats import low_rank, single_file_writer
from conceptctl.store import base, folded, tensorfile, weights
from conceptctl.workflows.export import export_folder
from conceptctl.workflows.export_shared import export_shared
from conceptctl.workflows.init import initialize
from tests import synthetic
from tests.tiny_pipeline import WIDTH, key_value_shapes, write_tiny_pipeline, write_tiny_sdxl

PROMPT = "a photo of a V*alice"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def store(folder, tmp_path):
    made = initialize(tmp_path / "store", str(folder)).store
    for seed, name in enumerate(("alice", "bob")):
        synthetic.learn(made, name, seed, shapes=key_value_shapes(folder), width=WIDTH)
    return made


def learned(store):
    """The weights that the store draws with, by parameter path."""
    return dict(folded.read(store.layout, store.head())[0])


def drawn(pipeline):
    return np.asarray(
        pipeline(PROMPT, num_inference_steps=2, guidance_scale=3.0, generator=torch.Generator().manual_seed(0)).images[
            0
        ]
    ).astype(int)


def with_tokens(pipeline, made):
    for name, path in made.embeddings.items():
        pipeline.load_textual_inversion(path, token=f"V*{name}")
    return pipeline


@pytest.fixture
def wanted(store, tmp_path):
    """What the folded model draws."""
    export_folder(store, [], tmp_path / "whole")
    return drawn(StableDiffusionPipeline.from_pretrained(tmp_path / "whole", safety_checker=None))


def test_diffusers_draws_the_same_with_a_lora(store, folder, wanted, tmp_path):
    made = export_shared(store, [], tmp_path / "both.safetensors", "lora")
    assert made.error < 1e-5 and set(made.embeddings) == {"alice", "bob"}
    assert made.embeddings["alice"] == tmp_path / "embeddings/alice.safetensors"
    pipeline = with_tokens(StableDiffusionPipeline.from_pretrained(folder, safety_checker=None), made)
    plain = drawn(pipeline)
    pipeline.load_lora_weights(made.path)
    assert np.abs(drawn(pipeline) - wanted).max() <= 1
    assert np.abs(plain - wanted).max() > 1


def test_diffusers_draws_the_same_with_a_single_file(store, folder, wanted, tmp_path):
    made = export_shared(store, [], tmp_path / "model.safetensors", "single-file")
    pipeline = StableDiffusionPipeline.from_single_file(str(made.path), config=str(folder), safety_checker=None)
    # Other programs' loaders want the base's own vocabulary.
    rows = pipeline.text_encoder.get_input_embeddings().num_embeddings
    assert rows == StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).text_encoder.config.vocab_size
    assert np.abs(drawn(with_tokens(pipeline, made)) - wanted).max() <= 1


def test_diffusers_draws_the_same_with_a_single_file_of_two_text_encoders(tmp_path, monkeypatch):
    """SDXL: the second encoder in OpenCLIP's layout, the tokens by one row for each."""
    # That is told by the width of the published one, which the tiny one has not.
    monkeypatch.setattr(single_file_writer, "_OPEN_CLIP_WIDTHS", {2 * WIDTH})
    folder = write_tiny_sdxl(tmp_path / "model")
    made = initialize(tmp_path / "store", str(folder)).store
    synthetic.learn(made, "alice", 0, shapes=key_value_shapes(folder), width=3 * WIDTH)
    export_folder(made, [], tmp_path / "whole")
    wanted = drawn(StableDiffusionXLPipeline.from_pretrained(tmp_path / "whole", add_watermarker=False))
    shared = export_shared(made, [], tmp_path / "model.safetensors", "single-file")
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(shared.path), config=str(folder), add_watermarker=False, torch_dtype=torch.float32
    )
    plain = drawn(pipeline)
    rows = load_file(shared.embeddings["alice"])
    for key, encoder, tokenizer in (
        ("clip_l", pipeline.text_encoder, pipeline.tokenizer),
        ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2),
    ):
        pipeline.load_textual_inversion(rows[key], token="V*alice", text_encoder=encoder, tokenizer=tokenizer)
    assert np.abs(drawn(pipeline) - wanted).max() <= 1
    assert np.abs(plain - wanted).max() > 1


def test_differences_are_the_increments(store, tmp_path):
    made = export_shared(store, [], tmp_path / "both.safetensors", "diff")
    tensors, metadata = tensorfile.read_tensors(made.path)
    found = base.tensors(store.layout, store.head().base)
    sums = learned(store)
    assert len(tensors) == len(sums)
    for path, weight in sums.items():
        key = f"lora_unet_{path.removeprefix('unet/').removesuffix('.weight').replace('.', '_')}.diff"
        difference = np.frombuffer(tensors[key].data, "<f4").reshape(tensors[key].shape)
        assert np.array_equal(difference, weight - weights.read_floats(*found[path][:2]))
    assert metadata["modelspec.trigger_phrase"] == "alice, bob"
    assert metadata["ss_output_name"] == "both"


def test_factors_that_are_kept_go_out_as_they_are(folder, tmp_path, monkeypatch):
    store = initialize(tmp_path / "store", str(folder)).store
    shapes = key_value_shapes(folder)
    for seed, (name, rank) in enumerate((("alice", 2), ("bob", 1))):
        synthetic.learn(store, name, seed, shapes=shapes, width=WIDTH, rank=rank, density=1.0)
    monkeypatch.setattr(low_rank, "thin", lambda delta: pytest.fail("factors were looked for"))
    made = export_shared(store, [], tmp_path / "both.safetensors", "lora")
    assert (made.rank, made.error) == (3, 0.0)
    tensors, _ = tensorfile.read_tensors(made.path)
    kept = [synthetic.factors(shapes, seed, rank) for seed, rank in ((0, 2), (1, 1))]
    for path, first in kept[0].items():
        key = f"lora_unet_{path.removeprefix('unet/').removesuffix('.weight').replace('.', '_')}"
        up, down = (tensors[f"{key}.lora_{part}.weight"] for part in ("up", "down"))
        assert up.data == np.hstack([first.up, kept[1][path].up]).tobytes()
        assert down.data == np.vstack([first.down, kept[1][path].down]).tobytes()


def test_factors_under_a_mask_are_no_lora(folder, tmp_path):
    store = initialize(tmp_path / "store", str(folder)).store
    synthetic.learn(store, "alice", 0, shapes=key_value_shapes(folder), width=WIDTH, rank=1, density=0.5)
    made = export_shared(store, [], tmp_path / "alice.safetensors", "lora")
    tensors, _ = tensorfile.read_tensors(made.path)
    found = base.tensors(store.layout, store.head().base)
    for path, weight in learned(store).items():
        key = f"lora_unet_{path.removeprefix('unet/').removesuffix('.weight').replace('.', '_')}"
        up, down = (
            np.frombuffer(tensors[f"{key}.lora_{part}.weight"].data, "<f4").reshape(
                tensors[f"{key}.lora_{part}.weight"].shape
            )
            for part in ("up", "down")
        )
        np.testing.assert_allclose(up @ down, weight - weights.read_floats(*found[path][:2]), atol=1e-5)


def test_a_truncated_file_says_what_is_left_out(store, tmp_path, capsys):
    root = str(store.layout.root)
    target = tmp_path / "thin.safetensors"
    assert run(["export", "--to", "lora", "--rank", "2", "-o", str(target), "--json", "--store", root]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rank"] == 2 and 0.01 < said["error"] < 1
    assert "left out" in said["warnings"][0]
    _, metadata = tensorfile.read_tensors(target)
    assert float(metadata["conceptctl.error"]) == pytest.approx(said["error"], rel=0.01)
    assert metadata["ss_network_dim"] == "2"


def test_an_embedding_is_called_as_its_concept(store, tmp_path):
    made = export_shared(store, [], tmp_path / "tokens", "embedding", dtype="fp16")
    assert made.path is None
    assert made.embeddings == {name: tmp_path / f"tokens/{name}.safetensors" for name in ("alice", "bob")}
    tensors, _ = tensorfile.read_tensors(made.embeddings["alice"])
    row = weights.read_floats(store.blob(store.concept("alice")), "token")
    assert tensors["emb_params"].dtype == "F16"
    assert np.array_equal(np.frombuffer(tensors["emb_params"].data, "<f2"), row[0].astype("<f2"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--to", "lora"], 2),
        (["--to", "lora", "-o", ""], 2),
        (["--to", "diff", "-o", "/"], 2),
        (["alice", "--to", "embedding", "-o", "alice.ckpt"], 2),
        (["--to", "lora", "-o", "model.ckpt"], 2),
        (["--to", "lora", "-o", "a.safetensors", "--rank", "0"], 2),
        (["--to", "diff", "-o", "a.safetensors", "--rank", "4"], 2),
        (["--to", "single-file", "-o", "a.safetensors", "--dtype", "fp8"], 2),
        (["--to", "lora", "-o", "a.safetensors", "--raw"], 2),
        (["--to", "concept", "-o", "a.safetensors", "--dtype", "fp16"], 2),
        (["carol", "--to", "lora", "-o", "a.safetensors"], 5),
        (["--to", "lora", "-o", "store/FORMAT/a.safetensors"], 2),
    ],
)
def test_what_cannot_be_meant_writes_nothing(store, tmp_path, monkeypatch, capsys, arguments, code):
    monkeypatch.chdir(tmp_path)
    assert run(["export", *arguments, "--store", str(store.layout.root)]) == code
    assert "hint" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


def test_nothing_is_overwritten(store, tmp_path):
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings/bob.safetensors").write_text("mine")
    with pytest.raises(AlreadyExists, match="bob"):
        export_shared(store, [], tmp_path / "both.safetensors", "lora")
    assert not (tmp_path / "both.safetensors").exists()
    with pytest.raises(UsageError):
        export_shared(store, [], tmp_path / "a.safetensors", "ckpt")


def test_an_empty_store_gives_a_checkpoint_and_no_lora(folder, tmp_path):
    empty = initialize(tmp_path / "empty", str(folder)).store
    with pytest.raises(NotFound, match="no concepts"):
        export_shared(empty, [], tmp_path / "a.safetensors", "lora")
    made = export_shared(empty, [], tmp_path / "model.safetensors", "single-file", dtype="fp16")
    assert not made.embeddings
    types = {each.dtype for each in tensorfile.read_header(made.path).tensors.values()}
    assert types == {"F16"}
