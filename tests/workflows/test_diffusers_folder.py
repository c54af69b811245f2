"""`export --to diffusers`: what a program that knows only diffusers makes of the folder."""

import json
import stat
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from conceptctl.cli.app import run
from conceptctl.errors import AlreadyExists, NoSpace, NotFound, StoreDamaged, UsageError
from conceptctl.store import tensorfile
from conceptctl.store.store import Store
from conceptctl.workflows.export import export_folder
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.generate.request import Request
from conceptctl.workflows.generate.run import generate
from tests import synthetic
from tests.tiny_pipeline import PREDICTING_BOTH, WIDTH, key_value_shapes

PROMPT = "a photo of V*alice next to V*falls"


def make_store(root, base_folder):
    made = synthetic.make_store(root, base_folder)
    for seed, name in enumerate(("alice", "falls")):
        synthetic.learn(made, name, seed + 1, shapes=key_value_shapes(base_folder), width=WIDTH)
    return made


@pytest.fixture
def store(base_folder, tmp_path):
    return make_store(tmp_path / "store", base_folder)


def ours(store, folder, prompt=PROMPT, **changes):
    request = Request(prompt, steps=2, guidance=5.0, seed=3, **{"prompt_only": True, **changes})
    made = generate(store, request, folder, device="cpu")
    with Image.open(made.images[0].path) as picture:
        return np.asarray(picture).copy()


def theirs(folder, prompt=PROMPT):
    """What diffusers draws from a folder, knowing nothing of this program."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert {weight.dtype for part in (pipeline.unet, pipeline.text_encoder) for weight in part.parameters()} == {
        torch.float32
    }
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    drawn = pipeline(prompt, num_inference_steps=2, guidance_scale=5.0, generator=generator)
    return np.asarray(drawn.images[0])


@PREDICTING_BOTH
@pytest.mark.parametrize("folded", [False, True])
def test_diffusers_draws_the_same_pixels(folded, store, tmp_path):
    if folded:
        fold(store)
    export_folder(store, (), tmp_path / "model")
    assert np.array_equal(theirs(tmp_path / "model"), ours(store, tmp_path / "out"))
    alone = "a photo of V*alice"
    assert np.array_equal(theirs(tmp_path / "model", alone), ours(store, tmp_path / "out", alone, prompt_only=False))


def test_a_base_in_half_precision_is_rounded_nowhere(base_folder, tmp_path):
    half = tmp_path / "half"
    StableDiffusionPipeline.from_pretrained(base_folder).to(torch.float16).save_pretrained(half)
    store = make_store(tmp_path / "store", half)
    export_folder(store, (), tmp_path / "model")
    assert np.array_equal(theirs(tmp_path / "model"), ours(store, tmp_path / "out"))
    header = tensorfile.read_header(tmp_path / "model/unet/diffusion_pytorch_model.safetensors")
    learned = key_value_shapes(base_folder)
    assert {name: info.dtype for name, info in header.tensors.items()} == {
        name: "F32" if name in learned else "F16" for name in header.tensors
    }


def test_a_vocabulary_without_a_tokenizer_file_gets_the_tokens_too(base_folder, tmp_path):
    plain = tmp_path / "plain"
    StableDiffusionPipeline.from_pretrained(base_folder).save_pretrained(plain)
    vocabulary = CLIPTokenizer.from_pretrained(base_folder / "tokenizer")
    (plain / "tokenizer/tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (plain / "tokenizer" / name).write_bytes((base_folder / "tokenizer" / name).read_bytes())
    store = make_store(tmp_path / "store", plain)
    export_folder(store, (), tmp_path / "model")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "model/tokenizer")
    assert tokenizer.tokenize("V*alice and v*FALLS") == ["v*alice", "and</w>", "v*falls"]
    assert tokenizer.convert_tokens_to_ids(["v*alice", "v*falls"]) == [len(vocabulary), len(vocabulary) + 1]
    assert np.array_equal(theirs(tmp_path / "model"), ours(store, tmp_path / "out"))


@PREDICTING_BOTH
def test_all_else_is_the_base_bit_for_bit(store, base_folder, tmp_path):
    export_folder(store, (), tmp_path / "model")
    for part, kind in (("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel)):
        before = kind.from_pretrained(base_folder / part).state_dict()
        after = kind.from_pretrained(tmp_path / "model" / part).state_dict()
        assert set(before) == set(after)
        for name, weight in before.items():
            if name.endswith("token_embedding.weight"):
                assert len(after[name]) == len(weight) + 2
                assert torch.equal(after[name][: len(weight)], weight)
            else:
                learned = part == "unet" and name in key_value_shapes(base_folder)
                assert torch.equal(after[name], weight) != learned, name
    for path in (base_folder / "vae").iterdir():
        assert (tmp_path / "model/vae" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("raw", [False, True])
def test_some_concepts_only(raw, store, tmp_path):
    made = export_folder(store, ("alice",), tmp_path / "model", raw=raw)
    assert made.checkpoint.concepts == ("alice",)
    alone = synthetic.make_store(tmp_path / "alone", tmp_path / "model")
    assert "v*alice" in CLIPTokenizer.from_pretrained(tmp_path / "model/tokenizer").get_vocab()
    assert "v*falls" not in CLIPTokenizer.from_pretrained(tmp_path / "model/tokenizer").get_vocab()
    assert alone.head().base.sha256 != store.head().base.sha256
    with pytest.raises(NotFound, match="alise"):
        export_folder(store, ("alise",), tmp_path / "other", raw=raw)


def test_deltas_as_they_were_learned_are_added_up(store, tmp_path):
    made = export_folder(store, ("alice",), tmp_path / "model", raw=True)
    assert made.changed == {}
    # Only alice has been learned at generation 1.
    assert np.array_equal(theirs(tmp_path / "model", "V*alice"), ours(store, tmp_path / "out", "V*alice", at=1))
    assert "which were learned on top of the others" in (tmp_path / "model/README.md").read_text()


@PREDICTING_BOTH
@pytest.mark.parametrize("prompt", ["V*alice", "a photo of a V*alice", "a photo of a V*alice on a beach"])
def test_some_concepts_draw_what_they_draw_with_the_others(prompt, store, tmp_path):
    made = export_folder(store, ("alice",), tmp_path / "model")
    # In 16 dimensions deltas of random numbers leave little room.
    assert 0 < made.changed["alice"] < 0.1
    export_folder(store, ("alice",), tmp_path / "raw", raw=True)
    wanted = ours(store, tmp_path / "out", prompt).astype(int)
    whole, raw = (np.abs(theirs(tmp_path / name, prompt) - wanted).mean() for name in ("model", "raw"))
    assert whole < raw / 2
    assert "made to draw what they draw with the others" in (tmp_path / "model/README.md").read_text()


def test_all_concepts_by_name_are_the_store_s_own_weights(store, tmp_path):
    made = export_folder(store, ("falls", "alice"), tmp_path / "model")
    assert made.changed == {}
    assert np.array_equal(theirs(tmp_path / "model"), ours(store, tmp_path / "out"))


def test_what_a_forget_left_is_drawn_too(store, base_folder, tmp_path):
    synthetic.learn(store, "owl", 3, shapes=key_value_shapes(base_folder), width=WIDTH)
    forget(store, plan_forget(store, "falls"))
    synthetic.learn(store, "tom", 4, shapes=key_value_shapes(base_folder), width=WIDTH)
    prompt = "a photo of V*alice next to V*tom"
    export_folder(store, (), tmp_path / "model")
    assert np.array_equal(theirs(tmp_path / "model", prompt), ours(store, tmp_path / "out", prompt))
    with pytest.raises(UsageError, match="'alice': a forget or a compaction") as caught:
        export_folder(store, ("alice",), tmp_path / "raw", raw=True)
    assert caught.value.hint == "without --raw"
    assert not (tmp_path / "raw").exists()
    # Before the forget its own delta can still be had.
    assert export_folder(store, ("alice",), tmp_path / "then", at=2, raw=True).checkpoint.generation == 2


def test_a_delta_is_not_chosen_without_those_that_it_goes_on_from(store, base_folder, tmp_path):
    shapes = key_value_shapes(base_folder)
    synthetic.learn(store, "owl", 3, shapes=shapes, width=WIDTH, contains=(store.concept("alice").uid,))
    for names in (("owl",), ("falls", "owl")):
        with pytest.raises(UsageError, match="'owl' goes on from") as caught:
            export_folder(store, names, tmp_path / "model", raw=True)
        assert caught.value.hint == "without --raw, or all concepts: leave the names out"
        assert not (tmp_path / "model").exists()
    made = [
        export_folder(store, names, tmp_path / folder, raw=raw).checkpoint.concepts
        for folder, names, raw in (
            ("model", ("owl", "alice"), True),
            ("falls", ("falls",), True),
            ("all", (), True),
            # Made whole it means what it means, without those that it goes on from.
            ("owl", ("owl",), False),
        )
    ]
    assert made == [("alice", "owl"), ("falls",), ("alice", "falls", "owl"), ("owl",)]


def test_an_earlier_generation(store, tmp_path):
    made = export_folder(store, (), tmp_path / "then", at=1).checkpoint
    assert (made.generation, made.concepts) == (1, ("alice",))
    before = export_folder(store, (), tmp_path / "before", at=0).checkpoint
    assert before.concepts == ()
    assert np.array_equal(theirs(tmp_path / "before", "a cat"), ours(store, tmp_path / "out", "a cat", at=0))
    with pytest.raises(NotFound, match="generation 7"):
        export_folder(store, (), tmp_path / "never", at=7)


def test_what_the_folder_says_of_itself(base_folder, tmp_path):
    store = synthetic.make_store(tmp_path / "store", base_folder)
    shapes = key_value_shapes(base_folder)
    notes = {"license": "CC-BY", "consent": "Alice | agreed\n# on <b>2026-11-01</b>"}
    file = tmp_path / "alice.safetensors"
    file.write_bytes(synthetic.concept_bytes(store, "alice", 1, shapes, WIDTH, **notes))
    assert run(["import", str(file), "--store", str(store.layout.root), "--quiet"]) == 0
    export_folder(store, (), tmp_path / "model")
    card = (tmp_path / "model/README.md").read_text()
    assert "V*alice" in card
    assert "from_pretrained" in card
    assert r"| CC-BY | Alice \| agreed # on \<b\>2026-11-01\</b\> |" in card
    for place in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        metadata = tensorfile.read_header(tmp_path / "model" / place).metadata
        assert metadata["modelspec.trigger_phrase"] == "V*alice"
        assert metadata["modelspec.license"] == "V*alice: CC-BY"
        assert json.loads(metadata["conceptctl"])["generation"] == store.head().identity
    for path in (tmp_path / "model").rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path
            assert stat.S_IMODE(path.stat().st_mode) & 0o400


@pytest.mark.parametrize("there", ["file", "folder with something", "link"])
def test_nothing_is_overwritten(there, store, tmp_path):
    target = tmp_path / "model"
    if there == "file":
        target.write_text("mine")
    elif there == "link":
        target.symlink_to(tmp_path / "elsewhere")
    else:
        target.mkdir()
        (target / "thesis.txt").write_text("mine")
    with pytest.raises(AlreadyExists):
        export_folder(store, (), target)
    assert not list(tmp_path.glob(".model-*"))
    assert not (tmp_path / "elsewhere").exists()


def test_what_appears_meanwhile_is_not_overwritten(store, tmp_path):
    target = tmp_path / "model"

    def somebody_else(written, total):
        target.mkdir(exist_ok=True)
        (target / "thesis.txt").write_text("mine")

    with pytest.raises(AlreadyExists):
        export_folder(store, (), target, writing=somebody_else)
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]
    assert not list(tmp_path.glob(".model-*"))


def test_an_empty_folder_will_do(store, tmp_path):
    (tmp_path / "model").mkdir()
    export_folder(store, (), tmp_path / "model")
    assert (tmp_path / "model/model_index.json").is_file()


def test_an_interrupted_export_leaves_nothing(store, tmp_path):
    def interrupt(written, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_folder(store, (), tmp_path / "model", writing=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_no_space(store, tmp_path):
    full = mock.Mock(f_bavail=1, f_frsize=4096)
    with mock.patch("os.statvfs", return_value=full), pytest.raises(NoSpace):
        export_folder(store, (), tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


@pytest.mark.parametrize("what", ["unet", "text_encoder", "vae", "texts", "concept"])
def test_damage_is_not_passed_on(what, store, tmp_path):
    head = store.head()
    refs = {place.partition("/")[0]: ref for place, ref in head.base.files.items()}
    ref = {**refs, "texts": head.base.texts, "concept": head.concepts[0].blob}[what]
    path = store.layout.blob(ref.sha256)
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreDamaged):
        export_folder(store, (), tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_part_that_the_base_does_not_have_is_left_out_of_the_index(base_folder, tmp_path):
    bare = tmp_path / "bare"
    StableDiffusionPipeline.from_pretrained(base_folder).save_pretrained(bare)
    index = json.loads((bare / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (bare / "model_index.json").write_text(json.dumps(index))
    store = make_store(tmp_path / "store", bare)
    export_folder(store, (), tmp_path / "model")
    assert np.array_equal(theirs(tmp_path / "model"), ours(store, tmp_path / "out"))


def test_the_command(store, tmp_path, capsys):
    options = ["--store", str(store.layout.root), "--json"]
    target = tmp_path / "model"
    assert run(["export", "--to", "diffusers", "-o", str(target), *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "generation": 2,
        "path": str(target),
        "concepts": ["alice", "falls"],
        "tokens": ["V*alice", "V*falls"],
        "bytes": sum(path.stat().st_size for path in target.rglob("*") if path.is_file()),
        "changed": {},
    }
    assert run(["export", "--to", "diffusers", "-o", str(target), *options]) == 5
    assert run(["export", "--to", "diffusers", *options]) == 2
    assert run(["export", "--to", "diffusers", "-o", str(tmp_path / "no/where"), *options]) == 5
    assert run(["export", "alice", "--at", "1", "-o", str(tmp_path / "x"), *options]) == 2
    capsys.readouterr()
    assert run(["export", "alice", "--to", "diffusers", "-o", str(tmp_path / "two"), *options[:2]]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'two'}\n"
    assert "V*alice" in shown.err
    assert "alice: whole without the others; its prompts' keys and values within" in shown.err


def test_it_works_while_something_is_learned(store, tmp_path):
    with Store(store.layout.root).writing("learn"):
        export_folder(store, (), tmp_path / "model")
