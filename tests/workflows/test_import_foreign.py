"""What other programs learned, brought into a store: our own exports, files of real programs, and broken ones."""

import contextlib
import json
import struct

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from conceptctl.cli.app import run
from conceptctl.errors import AlreadyExists, ConceptctlError, ImportRefused, NotFound, UsageError
from conceptctl.formats import lora
from conceptctl.store import base, folded, tensorfile, weights
from conceptctl.store.concept import read_record
from conceptctl.store.verify import verify
from conceptctl.workflows.adding import add_concept
from conceptctl.workflows.export_shared import export_shared
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.generate.run import Request as Drawing
from conceptctl.workflows.generate.run import generate
from conceptctl.workflows.import_concept import import_concept
from conceptctl.workflows.import_foreign import Elsewhere
from conceptctl.workflows.init import initialize
from tests import synthetic
from tests.tiny_pipeline import (
    WIDTH,
    key_value_shapes,
    write_tiny_flux,
    write_tiny_pipeline,
    write_tiny_sd3,
    write_tiny_sdxl,
)

KEY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k"
"""A module of self-attention."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny")
    return {"sd": write_tiny_pipeline(place / "sd"), "sdxl": write_tiny_sdxl(place / "sdxl")}


@pytest.fixture
def folder(folders):
    return folders["sd"]


@pytest.fixture
def store(folder, tmp_path):
    return initialize(tmp_path / "store", str(folder)).store


def learned(store, folder, name, seed=0):
    tables = base.token_widths(base.tensors(store.layout, store.head().base), store.head().base.family)
    synthetic.learn(store, name, seed, shapes=key_value_shapes(folder), width=sum(tables.values()))
    return store


def deltas_of(store, name):
    path = store.blob(store.concept(name))
    sums, _ = folded.read(store.layout, store.head())
    shapes = {place: weight.shape for place, weight in sums.items()}
    found = {}
    for place, delta in weights.read_deltas(path, shapes):
        found[place] = np.zeros(shapes[place], np.float32)
        delta.add_to(found[place])
    return found


def row_of(store, name):
    return weights.read_floats(store.blob(store.concept(name)), "token")


def write(path, tensors, metadata=None):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(tensorfile.encode(tensors, {"format": "pt"} if metadata is None else metadata)))
    return path


def some_deltas(folder, seed=0, rank=2):
    generator = np.random.default_rng(seed)
    return {
        f"unet/{name}": 0.1
        * (generator.standard_normal((shape[0], rank)) @ generator.standard_normal((rank, shape[1]))).astype(np.float32)
        for name, shape in key_value_shapes(folder).items()
    }


def some_row(width=WIDTH, vectors=1):
    return np.random.default_rng(1).standard_normal((vectors, width)).astype(np.float32)


# What we export


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("form", ["lora", "diff"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_what_is_exported_comes_back(folders, tmp_path, family, form, dtype):
    folder = folders[family]
    first = learned(initialize(tmp_path / "first", str(folder)).store, folder, "alice")
    export_shared(first, ["alice"], tmp_path / "out/alice.safetensors", form, dtype=dtype)
    second = initialize(tmp_path / "second", str(folder)).store
    found = import_concept(second, tmp_path / "out/alice.safetensors")
    assert (found.foreign.form, found.foreign.unused, found.foreign.other_base) == ("lora and embedding", {}, False)
    assert found.foreign.share == 1 and not found.bare and found.lacking is None
    tolerance = 1e-5 if dtype == "fp32" else 2e-3
    wanted, there = deltas_of(first, "alice"), deltas_of(second, "alice")
    assert there.keys() == wanted.keys() and len(wanted) == found.foreign.used
    for path, delta in wanted.items():
        assert np.linalg.norm(there[path] - delta) <= tolerance * np.linalg.norm(delta)
    assert np.allclose(row_of(second, "alice"), row_of(first, "alice"), rtol=tolerance, atol=0)
    record = read_record(second.blob(second.concept("alice")))
    assert (record.method, record.settings["imported_from"]) == ("imported", "lora")
    assert verify(second.layout, read_data=True).problems == ()


@pytest.mark.parametrize("write_tiny", [write_tiny_sd3, write_tiny_flux])
def test_what_is_exported_of_a_transformer_comes_back(tmp_path, write_tiny):
    folder = write_tiny(tmp_path / "model")
    first = initialize(tmp_path / "first", str(folder)).store
    family, found = first.head().base.family, base.tensors(first.layout, first.head().base)
    generator = np.random.default_rng(0)
    deltas = {
        path: weights.Delta.of(generator.standard_normal(info.shape, dtype=np.float32))
        for path, (_, _, info) in found.items()
        if family.is_target(path)
    }
    row = generator.standard_normal((1, sum(base.token_widths(found, family).values())), dtype=np.float32)
    record = synthetic.record(first, "alice")
    with first.writing("learn") as writer:
        add_concept(
            writer, "learn", record, writer.add_tensors(weights.concept_tensors(deltas, row), record.metadata())
        )
    made = export_shared(first, [], tmp_path / "out/alice.safetensors", "lora")
    second = initialize(tmp_path / "second", str(folder)).store
    assert import_concept(second, made.path).foreign.unused == {}
    wanted, there = deltas_of(first, "alice"), deltas_of(second, "alice")
    assert there.keys() == wanted.keys() and len(wanted) == len(deltas)
    for path, delta in wanted.items():
        assert np.linalg.norm(there[path] - delta) <= 1e-5 * np.linalg.norm(delta)
    assert np.array_equal(row_of(second, "alice"), row)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_an_embedding_comes_back(folders, tmp_path, family):
    folder = folders[family]
    first = learned(initialize(tmp_path / "first", str(folder)).store, folder, "alice")
    export_shared(first, ["alice"], tmp_path / "ally.safetensors", "embedding")
    second = initialize(tmp_path / "second", str(folder)).store
    found = import_concept(second, tmp_path / "ally.safetensors")
    assert found.foreign.form == "embedding" and found.foreign.share is None
    assert np.array_equal(row_of(second, "ally"), row_of(first, "alice"))
    assert deltas_of(second, "ally") == {}


def test_it_draws_the_same_where_it_comes_to(folder, tmp_path):
    first = learned(initialize(tmp_path / "first", str(folder)).store, folder, "alice")
    export_shared(first, [], tmp_path / "out/alice.safetensors", "diff")
    second = initialize(tmp_path / "second", str(folder)).store
    import_concept(second, tmp_path / "out/alice.safetensors", "rex")
    pixels = []
    for store, name in ((first, "alice"), (second, "rex")):
        asked = Drawing(f"a photo of a V*{name}", steps=2, guidance=3.0, prompt_only=True)
        pixels.append(generate(store, asked, tmp_path / name, device="cpu").images[0].path)
    from PIL import Image

    one, other = (np.asarray(Image.open(path)).astype(int) for path in pixels)
    assert np.abs(one - other).max() <= 1


def test_several_in_one_sum_are_not_taken_for_one(store, folder, tmp_path):
    for seed, name in enumerate(("alice", "bob")):
        learned(store, folder, name, seed)
    export_shared(store, [], tmp_path / "both.safetensors", "lora")
    with pytest.raises(ImportRefused, match="2 concepts in one sum") as caught:
        import_concept(store, tmp_path / "both.safetensors", "both")
    assert "one by one" in caught.value.hint


def test_an_export_without_its_token_is_not_half_a_concept(store, folder, tmp_path):
    learned(store, folder, "alice")
    made = export_shared(store, [], tmp_path / "alice.safetensors", "lora")
    token = made.embeddings["alice"].rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(NotFound, match="embeddings"):
        import_concept(store, made.path, "again")
    found = import_concept(store, made.path, "again", Elsewhere(embedding=token), raw=True)
    assert np.array_equal(row_of(store, "again"), row_of(store, "alice")) and found.foreign.form == "lora and embedding"


# What others write


@pytest.mark.parametrize(
    "settings",
    [{}, {"lora_alpha": 8}, {"lora_alpha": 8, "use_rslora": True}, {"lora_alpha": 3, "alpha_pattern": {"to_k": 1}}],
    ids=["plain", "alpha", "rslora", "pattern"],
)
def test_what_diffusers_and_peft_save_is_what_they_draw_with(store, folder, tmp_path, settings):
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    modules = ["attn2.to_k", "attn2.to_v", "to_q"]
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=modules, init_lora_weights=False, **settings))
    pipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipeline.unet),
        weight_name="rex.safetensors",
        **_collate_lora_metadata({"unet": pipeline.unet}),
    )
    pipeline.fuse_lora()
    found = import_concept(store, tmp_path / "rex.safetensors", elsewhere=Elsewhere("cat"))
    after = {name.replace(".base_layer", ""): weight for name, weight in pipeline.unet.state_dict().items()}
    for path, delta in deltas_of(store, "rex").items():
        name = path.removeprefix("unet/")
        assert np.abs(delta - (after[name] - before[name]).numpy()).max() < 1e-5
    queries = found.foreign.unused["cross-attention's queries and outputs"]
    assert found.foreign.used == 2 * queries and 0 < found.foreign.share < 1
    assert found.foreign.unused["self-attention"] == queries


def test_a_lora_is_kept_as_its_factors(store, folder, tmp_path):
    generator = np.random.default_rng(0)
    tensors, wanted = {}, {}
    for path, delta in some_deltas(folder).items():
        up, down = (generator.standard_normal((side, 2), dtype=np.float32) for side in delta.shape)
        key = lora.PREFIX + lora.module_name(path).replace(".", "_")
        parts = (("lora_up.weight", up), ("lora_down.weight", down.T), ("alpha", np.float32(1)))
        tensors |= {f"{key}.{part}": lora.as_tensor(np.array(array), "F32") for part, array in parts}
        wanted[path] = up @ down.T / 2
    import_concept(store, write(tmp_path / "rex.safetensors", tensors), "rex", Elsewhere("cat"))
    header = tensorfile.read_header(store.blob(store.concept("rex")))
    assert set(weights.delta_parts(header).values()) == {frozenset({"up", "down"})}
    for path, delta in deltas_of(store, "rex").items():
        np.testing.assert_allclose(delta, wanted[path], rtol=1e-5, atol=1e-6)


def test_settings_beside_a_file_of_peft(store, folder, tmp_path):
    deltas = some_deltas(folder)
    written = lora.lora(deltas)
    tensors = {}
    for path in deltas:
        name, flat = lora.module_name(path), lora.PREFIX + lora.module_name(path).replace(".", "_")
        tensors[f"base_model.model.{name}.lora_B.weight"] = written.tensors[f"{flat}.lora_up.weight"]
        tensors[f"base_model.model.{name}.lora_A.weight"] = written.tensors[f"{flat}.lora_down.weight"]
    path = write(tmp_path / "peft/adapter_model.safetensors", tensors)
    (tmp_path / "peft/adapter_config.json").write_text(json.dumps({"lora_alpha": 3 * written.rank, "r": written.rank}))
    import_concept(store, path, "rex", Elsewhere("cat"))
    for place, delta in deltas_of(store, "rex").items():
        assert np.abs(delta - 3 * deltas[place]).max() < 1e-4 * np.abs(deltas[place]).max()
    (tmp_path / "peft/adapter_config.json").write_text('{"lora_alpha": "many"}')
    with pytest.raises(ImportRefused, match="lora_alpha"):
        import_concept(store, path, "rex2", Elsewhere("cat"))


def test_a_lora_answers_to_its_own_words(store, folder, tmp_path):
    """One word that is a token is the concept's token; more of them stand beside it."""
    found = base.tensors(store.layout, store.head().base)
    table = found[base.token_tables(found, store.head().base.family)["text_encoder"]]
    tokenizer = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).tokenizer
    rows = weights.read_floats(*table[:2])
    frequencies = json.dumps({"10_x": {"cat": 12, "a photo": 3}, "5_y": {"dog": 11}})
    path = write(
        tmp_path / "Rex v2.safetensors", lora.lora(some_deltas(folder)).tensors, {"ss_tag_frequency": frequencies}
    )
    found = import_concept(store, path)
    assert found.generation.concepts[-1].name == "rex-v2" and found.foreign.trigger == "cat"
    assert np.array_equal(row_of(store, "rex-v2")[0], rows[tokenizer("cat").input_ids[1]])
    record = read_record(store.blob(store.concept("rex-v2")))
    assert record.settings["reference_prompt"] == "a photo of a V*{}"
    import_concept(store, path, "rex", Elsewhere(trigger="red cat", license="CC0", consent="me"), raw=True)
    record = read_record(store.blob(store.concept("rex")))
    assert record.settings["reference_prompt"] == "a photo of a V*{}, red cat"
    assert (record.license, record.consent) == ("CC0", "me")


def test_it_comes_to_others_and_leaves_again(store, folder, tmp_path):
    learned(store, folder, "alice")
    path = write(tmp_path / "rex.safetensors", lora.lora(some_deltas(folder)).tensors)
    found = import_concept(store, path, elsewhere=Elsewhere("cat"))
    assert [each.name for each in found.kept] == ["alice"] and found.lacking > 0 and not found.bare
    assert [each.name for each in store.head().concepts] == ["alice", "rex"]
    forget(store, plan_forget(store, "rex"))
    assert [each.name for each in store.head().concepts] == ["alice"]


def test_an_embedding_within_a_lora(store, folder, tmp_path):
    row = some_row()
    tensors = {**lora.lora(some_deltas(folder)).tensors, "bundle_emb.rex.string_to_param.*": lora.as_tensor(row, "F32")}
    found = import_concept(store, write(tmp_path / "rex.safetensors", tensors))
    assert (found.foreign.form, found.foreign.unused) == ("lora and embedding", {})
    assert np.array_equal(row_of(store, "rex"), row)


@pytest.mark.parametrize("key", ["<rex>", "emb_params", "clip_l"])
def test_embeddings_as_programs_write_them(store, tmp_path, key):
    row = some_row()
    for shape in ((1, WIDTH), (WIDTH,)):
        path = write(tmp_path / f"it{len(shape)}.safetensors", {key: lora.as_tensor(row.reshape(shape), "F32")})
        name = import_concept(store, path, None if len(shape) == 2 else "flat").generation.concepts[-1].name
        assert name == ("flat" if len(shape) == 1 else "rex" if key == "<rex>" else "it2")
        assert np.array_equal(row_of(store, name), row)


# What cannot be


def refused(store, path, match, kind=ImportRefused, elsewhere=None, name="rex"):
    before = store.head()
    with pytest.raises(kind, match=match) as caught:
        import_concept(store, path, name, elsewhere)
    assert caught.value.hint
    assert store.head() == before and list(store.layout.tmp.iterdir()) == []


def test_a_lora_for_another_base_says_so(folders, tmp_path):
    made = write(tmp_path / "xl.safetensors", lora.lora(some_deltas(folders["sdxl"])).tensors,
                 {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"})  # fmt: skip
    store = initialize(tmp_path / "store", str(folders["sd"])).store
    refused(store, made, "another base .stable-diffusion-xl.*", elsewhere=Elsewhere("cat"))
    made = write(tmp_path / "sd.safetensors", lora.lora(some_deltas(folders["sd"])).tensors)
    # The file that the user named comes first, also where it is the token beside it that does not fit.
    token = write(tmp_path / "rex.safetensors", {"emb_params": lora.as_tensor(some_row(2 * WIDTH), "F32")})
    beside = Elsewhere("cat", embedding=token)
    refused(store, made, r"^sd.safetensors, by its token: rex.safetensors: an embedding of another", elsewhere=beside)
    refused(store, folders["sd"], "not a regular file")
    store = initialize(tmp_path / "store-xl", str(folders["sdxl"])).store
    refused(store, made, f"another base: .*are {WIDTH} numbers wide, here {3 * WIDTH}", elsewhere=Elsewhere("cat"))


def test_embeddings_that_do_not_fit(store, folders, tmp_path):
    several = write(tmp_path / "n.safetensors", {"emb_params": lora.as_tensor(some_row(vectors=4), "F32")})
    refused(store, several, "4 vectors")
    wide = write(tmp_path / "w.safetensors", {"emb_params": lora.as_tensor(some_row(2 * WIDTH), "F32")})
    refused(store, wide, f"one vector of {2 * WIDTH} numbers, this store's base takes one vector of {WIDTH}")
    pair = {"clip_l": lora.as_tensor(some_row(), "F32"), "clip_g": lora.as_tensor(some_row(2 * WIDTH), "F32")}
    refused(store, write(tmp_path / "xl.safetensors", pair), "2 vectors of 16 and 32 numbers")
    other = initialize(tmp_path / "xl", str(folders["sdxl"])).store
    assert import_concept(other, tmp_path / "xl.safetensors").foreign.form == "embedding"
    refused(other, several, "one vector of 16 numbers")


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({f"{KEY}.lora_up.weight": (4, 2), f"{KEY}.lora_down.weight": (2, 4)}, "nothing of it can be used.*1 self-att"),
        (
            {"lora_te_text_model_x.lora_up.weight": (4, 2), "lora_te_text_model_x.lora_down.weight": (2, 4)},
            "1 text enc",
        ),
        ({f"{KEY}.hada_w1_a": (4, 2)}, "1 LoHa"),
        ({"model.diffusion_model.out.2.weight": (2, 2), "first_stage_model.x": (2,)}, "a whole checkpoint"),
        ({"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (2, 4)}, "nothing of it can be used"),
    ],
)
def test_files_of_which_nothing_can_be_used(store, tmp_path, tensors, match):
    made = {name: lora.as_tensor(np.ones(shape, np.float32), "F32") for name, shape in tensors.items()}
    refused(store, write(tmp_path / "x.safetensors", made), match, elsewhere=Elsewhere("cat"))


@pytest.mark.parametrize(
    ("start", "match"),
    [(b"PK\x03\x04", "a pickle"), (b"\x80\x02ctorch", "a pickle"), (b"GGUF\x03", "GGUF"), (b"<!doctype html>", "web"),
     (b"version https://git-lfs.github.com/spec/v1", "Git LFS")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_what_is_no_safetensors_file_is_called_what_it_is(store, tmp_path, start, match, name):
    (tmp_path / name).write_bytes(start + bytes(100))
    refused(store, tmp_path / name, match)


def test_quantized_files(store, folder, tmp_path):
    tensors = lora.lora(some_deltas(folder)).tensors
    name, each = next((name, each) for name, each in tensors.items() if name.endswith("lora_up.weight"))
    packed = tensorfile.Tensor("F8_E4M3", each.shape, bytes(len(each.data) // 4))
    refused(store, write(tmp_path / "x.safetensors", {**tensors, name: packed}), "quantized: its weights are F8_E4M3")


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_numbers_that_are_none(store, folder, tmp_path, value):
    tensors = dict(lora.lora(some_deltas(folder)).tensors)
    name = next(name for name in tensors if name.endswith("attn2_to_k.lora_up.weight"))
    tensors[name] = lora.as_tensor(np.full(tensors[name].shape, value, np.float32), "F32")
    alpha = name.replace("lora_up.weight", "alpha")
    tensors[alpha] = lora.as_tensor(np.array(1e4, np.float32), "F32")
    refused(store, write(tmp_path / "x.safetensors", tensors), "finite|beyond 65504", elsewhere=Elsewhere("cat"))


@pytest.mark.parametrize("value", [1e5, 1e38])
def test_an_embedding_that_no_model_draws_with(store, folder, tmp_path, value):
    learned(store, folder, "alice")
    row = {"emb_params": lora.as_tensor(np.full((1, WIDTH), value, np.float32), "F32")}
    refused(store, write(tmp_path / "x.safetensors", row), "beyond 65504")
    # A concept file of ours too.
    own = tmp_path / "rex.safetensors"
    own.write_bytes(synthetic.concept_bytes(store, "rex", shapes=key_value_shapes(folder), width=WIDTH))
    tensors, metadata = tensorfile.read_tensors(own)
    tensors["token"] = row["emb_params"]
    refused(store, write(own, tensors, metadata), "beyond 65504")


def test_a_module_that_is_there_twice_or_in_part(store, folder, tmp_path):
    tensors = dict(lora.lora(some_deltas(folder)).tensors)
    up = next(name for name in tensors if name.endswith("attn2_to_k.lora_up.weight"))
    part = {up: tensors[up]}
    refused(
        store, write(tmp_path / "x.safetensors", part), "1 keys and values without a whole", elsewhere=Elsewhere("cat")
    )
    path = next(path for path in some_deltas(folder) if path.endswith("attn2.to_k.weight"))
    again = path.partition("/")[2].removesuffix(".weight")
    twice = {**tensors, f"unet.{again}.diff": lora.as_tensor(some_deltas(folder)[path], "F32")}
    refused(store, write(tmp_path / "x.safetensors", twice), "twice", elsewhere=Elsewhere("cat"))


def test_files_without_tensors_links_and_an_empty_name(store, folder, tmp_path):
    refused(store, write(tmp_path / "x.safetensors", {}, {"a": "b"}), "no record")
    path = write(tmp_path / "rex.safetensors", lora.lora(some_deltas(folder)).tensors)
    (tmp_path / "link.safetensors").symlink_to(path)
    refused(store, tmp_path / "link.safetensors", "not a regular file", elsewhere=Elsewhere("cat"))
    refused(store, path, "cannot be a concept's name", UsageError, Elsewhere("cat"), name="")


def test_what_is_said_must_be_sayable(store, folder, tmp_path):
    path = write(tmp_path / "rex.safetensors", lora.lora(some_deltas(folder)).tensors)
    refused(store, path, "which words it answers to", UsageError)
    for said in (Elsewhere(trigger="V*alice"), Elsewhere(trigger="a{}b"), Elsewhere(trigger="x" * 300)):
        refused(store, path, "trigger words", UsageError, said)
    refused(store, path, "cannot be a class", UsageError, Elsewhere("a {word}"))
    refused(store, path, "cannot be a concept's name", UsageError, Elsewhere("cat"), name="Rex")
    refused(store, path, "no file", NotFound, Elsewhere(embedding=tmp_path / "none.safetensors"))
    odd = path.rename(tmp_path / "犬.safetensors")
    refused(store, odd, "--as|nothing in its name", UsageError, Elsewhere("cat"), name=None)
    import_concept(store, odd, "rex", Elsewhere("cat"))
    refused(store, odd, "there already", AlreadyExists, Elsewhere("cat"))
    own = tmp_path / "alice.safetensors"
    own.write_bytes(synthetic.concept_bytes(store, "alice", shapes=key_value_shapes(folder), width=WIDTH))
    refused(store, own, "says itself what it is", UsageError, Elsewhere("cat"))


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_errors_of_our_own_come_out_of_any_file(store, folder, data):
    """Headers of adapters with any shapes, types and metadata: refused or a concept, and a whole store either way."""
    name = lora.module_name(next(iter(key_value_shapes(folder)))).removesuffix(".weight").replace(".", "_")
    keys = [
        f"lora_unet_{name}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha", "diff", "dora_scale")
    ]
    keys += ["emb_params", "clip_l", "clip_g", "bundle_emb.x.string_to_param.*", "lora_te_x.alpha", "x"]
    chosen = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=6, unique=True))
    entries, position = {}, 0
    for key in chosen:
        shape = data.draw(st.lists(st.integers(0, 17), max_size=4))
        size = 4 * int(np.prod(shape, dtype=int))
        entries[key] = {"dtype": "F32", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    words = st.sampled_from(
        ["", "{}", "[", '{"unet.lora_alpha": null}', '{"a": {"b": 1e999}}', '{"concepts": 3}', "a cat"]
    )
    fields = [
        "conceptctl",
        "lora_adapter_metadata",
        "ss_tag_frequency",
        "modelspec.trigger_phrase",
        "modelspec.license",
    ]
    entries["__metadata__"] = {field: data.draw(words) for field in fields}
    header = json.dumps(entries).encode()
    path = store.layout.root.parent / "any.safetensors"
    path.write_bytes(
        struct.pack("<Q", len(header)) + header + data.draw(st.binary(min_size=position, max_size=position))
    )
    with contextlib.suppress(ConceptctlError):
        import_concept(store, path, f"c{data.draw(st.integers(0, 10**6))}", Elsewhere("cat"), raw=True)
    assert list(store.layout.tmp.iterdir()) == []


# The command


def test_the_command_says_what_was_used(store, folder, tmp_path, capsys):
    tensors = dict(lora.lora(some_deltas(folder)).tensors)
    tensors |= {f"{KEY}.{part}": lora.as_tensor(np.full(shape, 9, np.float32), "F32")
                for part, shape in (("lora_up.weight", (8, 2)), ("lora_down.weight", (2, 8)))}  # fmt: skip
    path = write(tmp_path / "rex.safetensors", tensors)
    root = str(store.layout.root)
    assert run(["import", str(path), "--token", "rex", "--class", "cat", "--json", "--store", root]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["foreign"]["unused"] == {"self-attention": 1} and said["foreign"]["share"] < 0.5
    assert "of what the file changes is used" in said["warnings"][0]
    assert run(["import", str(path), "--as", "rex2", "--trigger", "red cat", "--store", root]) == 0
    told = capsys.readouterr().err
    assert "not used: 1 of self-attention" in told and "red cat" in told
    assert run(["show", "rex", "--store", root]) == 0
    assert "LoRA of another program" in capsys.readouterr().out
