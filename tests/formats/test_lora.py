"""Files of low-rank factors, differences and embeddings: the numbers, and what real clients make of them."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from conceptctl.formats import lora, lora_reader, low_rank
from conceptctl.formats.architectures import configurations
from conceptctl.store import tensorfile, weights
from conceptctl.workflows.export_shared import original_name
from tests.tiny_pipeline import WIDTH, key_value_shapes, write_tiny_pipeline


def matrix(rows, columns, rank, seed=0):
    generator = np.random.default_rng(seed)
    up, down = generator.standard_normal((rows, rank)), generator.standard_normal((rank, columns))
    return (up @ down).astype(np.float32)


def relative(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(("rows", "columns"), [(40, 90), (90, 40), (64, 64)])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_a_low_rank_is_found(rows, columns, rank):
    delta = matrix(rows, columns, rank)
    found = low_rank.thin(delta)
    assert found.rank == rank and found.error < low_rank.EXACT
    assert relative(found.up @ found.down, delta) < low_rank.EXACT


@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(40, 90), (90, 40)])
def test_a_full_rank_is_written_exactly(rows, columns, below):
    delta = matrix(rows, columns, min(rows, columns)) * (np.random.default_rng(1).random((rows, columns)) < 0.3)
    assert low_rank.thin(delta) is None
    found = low_rank.beside_identity(delta, below=below)
    assert (found.rank, found.error) == (columns if below else rows, 0.0)
    assert np.array_equal(found.up @ found.down, delta)


@pytest.mark.parametrize(("shapes", "rank"), [([(40, 20), (10, 20)], 20), ([(8, 40), (20, 40)], 20)])
def test_the_smaller_of_two_exact_files_is_written(shapes, rank):
    deltas = {f"unet/{index}.weight": matrix(*shape, 40, seed=index) for index, shape in enumerate(shapes)}
    written = lora.lora(deltas)
    assert (written.rank, written.error) == (rank, 0.0)
    found = lora_reader.read(arrays(written.tensors), {path: delta.shape for path, delta in deltas.items()})
    for path, delta in deltas.items():
        assert np.array_equal(found.deltas[path], delta)


def test_no_change_is_a_product_too():
    found = low_rank.thin(np.zeros((6, 4), np.float32))
    assert found.rank == 1 and not (found.up @ found.down).any()


def test_what_is_truncated_is_the_nearest_and_says_how_near():
    delta = matrix(40, 60, 40)
    values = np.linalg.svd(delta, compute_uv=False)
    for rank in (4, 16, 39):
        found = low_rank.truncated(delta, rank)
        assert found.rank == rank
        assert found.error == pytest.approx(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()), rel=1e-3)
    # What has a lower rank by itself is not made thicker.
    assert low_rank.truncated(matrix(40, 60, 3), 16).rank == 3


@pytest.mark.parametrize(("name", "kind"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_numbers_are_rounded_to_nearest_as_torch_rounds(name, kind):
    array = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    tensor = lora.as_tensor(array, name)
    wanted = torch.from_numpy(array).to(kind)
    assert tensor.shape == (7, 5) and tensor.dtype == name
    assert bytes(tensor.data) == wanted.view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module", params=["low rank", "masked"])
def deltas(request, folder):
    made = {}
    for index, (name, shape) in enumerate(key_value_shapes(folder).items()):
        # Of several ranks: all of one file have one scale in diffusers.
        delta = 0.1 * matrix(*shape, 1 + index % 3, seed=index)
        if request.param == "masked":
            delta *= np.random.default_rng(index).random(shape) < 0.5
        made[f"unet/{name}"] = delta.astype(np.float32)
    return made


def write(path, tensors):
    path.write_bytes(b"".join(tensorfile.encode(tensors, {"format": "pt"})))
    return path


def fused(folder, path):
    """What diffusers makes of a LoRA file: the pipeline's weights with it."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_lora_weights(path)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return {f"unet/{name}": value for name, value in pipeline.unet.state_dict().items()}


def test_diffusers_reads_the_exact_deltas(folder, deltas, tmp_path):
    before = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).unet.state_dict()
    written = lora.lora(deltas)
    assert written.error < low_rank.EXACT
    after = fused(folder, write(tmp_path / "model.safetensors", written.tensors))
    for path, weight in after.items():
        change = (weight - before[path.removeprefix("unet/")]).numpy()
        wanted = deltas.get(path, np.zeros(weight.shape, np.float32))
        assert np.abs(change - wanted).max() < 2e-6


def test_diffusers_reads_an_embedding(folder, tmp_path):
    row = np.random.default_rng(0).standard_normal((1, WIDTH)).astype(np.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_textual_inversion(write(tmp_path / "alice.safetensors", lora.embedding({"text": row})), token="alice")
    number = pipeline.tokenizer.convert_tokens_to_ids("alice")
    assert np.array_equal(pipeline.text_encoder.get_input_embeddings().weight[number].detach().numpy(), row[0])


def test_keys_are_those_of_the_tables(deltas):
    """What clients look for, from docs/reference of each: kohya's names, whole differences, embeddings."""
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    path = "unet/down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    tensors = lora.lora({path: deltas[path]}).tensors
    assert set(tensors) == {f"{key}.lora_up.weight", f"{key}.lora_down.weight", f"{key}.alpha"}
    up, down, alpha = (tensors[f"{key}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    assert (up.shape[0], down.shape[1]) == deltas[path].shape and up.shape[1] == down.shape[0]
    assert np.frombuffer(alpha.data, "<f4")[0] == up.shape[1] and alpha.shape == ()
    tensors = lora.diff({path: deltas[path]}, dtype="F16").tensors
    assert {name: (each.dtype, each.shape) for name, each in tensors.items()} == {
        f"{key}.diff": ("F16", deltas[path].shape)
    }
    row = np.zeros((1, 4), np.float32)
    assert set(lora.embedding({"one": row})) == {"emb_params"}
    assert set(lora.embedding({"one": row, "two": row})) == {"clip_l", "clip_g"}


def arrays(tensors):
    return {name: np.frombuffer(each.data, "<f4").reshape(each.shape) for name, each in tensors.items()}


@pytest.mark.parametrize("form", ["kohya", "peft", "peft in a model", "processor", "old diffusers", "diff"])
def test_every_form_is_read_again(deltas, form):
    factors = {path: low_rank.beside_identity(delta, below=True) for path, delta in deltas.items()}
    shapes = {path: delta.shape for path, delta in deltas.items()}
    if form in ("kohya", "diff"):
        found = lora_reader.read(arrays((lora.lora if form == "kohya" else lora.diff)(deltas).tensors), shapes)
    else:
        keys = {
            "peft": ("unet.{}.lora_B.weight", "unet.{}.lora_A.weight"),
            "peft in a model": (
                "base_model.model.{}.lora_B.default.weight",
                "base_model.model.{}.lora_A.default.weight",
            ),
            "old diffusers": ("unet.{}.lora.up.weight", "unet.{}.lora.down.weight"),
        }
        given = {}
        for path, pair in factors.items():
            name = lora.module_name(path)
            if form == "processor":
                block, _, which = name.rpartition(".")
                up, down = (f"unet.{block}.processor.{which}_lora.{part}.weight" for part in ("up", "down"))
            else:
                up, down = (key.format(name) for key in keys[form])
            given |= {up: pair.up, down: pair.down}
        found = lora_reader.read(given, shapes)
    assert (found.unused, found.unread, found.misfits) == ({}, (), ())
    assert found.deltas.keys() == deltas.keys()
    for path, delta in deltas.items():
        assert relative(found.deltas[path], delta) < 1e-5


def test_names_of_a_transformer_are_read_again():
    path = "transformer/transformer_blocks.0.attn.add_k_proj.weight"
    found = lora_reader.read(arrays(lora.peft({path: matrix(6, 4, 2)}).tensors), {path: (6, 4)})
    assert relative(found.deltas[path], matrix(6, 4, 2)) < 1e-5
    assert (found.unused, found.misfits) == ({}, ())


@pytest.mark.parametrize(("base", "modules"), [("sd1", 32), ("sd2", 32), ("sdxl", 140)])
def test_modules_are_called_as_trainers_and_clients_call_them_at_full_size(base, modules):
    """Names from the layouts of the published models: blocks with attention, and how many transformers each has."""
    from diffusers import UNet2DConditionModel

    config = configurations(base)["unet/config.json"]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    targets = [
        f"unet/{name}"
        for name, _ in unet.named_parameters()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    ]
    if base == "sdxl":
        blocks = [("input_blocks_4_1", 2), ("input_blocks_5_1", 2), ("input_blocks_7_1", 10), ("input_blocks_8_1", 10)]
        blocks += [
            ("middle_block_1", 10),
            *((f"output_blocks_{index}_1", 10 if index < 3 else 2) for index in range(6)),
        ]
    else:
        blocks = [(f"down_blocks_{level}_attentions_{layer}", 1) for level in range(3) for layer in range(2)]
        blocks += [("mid_block_attentions_0", 1)]
        blocks += [(f"up_blocks_{level}_attentions_{layer}", 1) for level in range(1, 4) for layer in range(3)]
    wanted = {
        f"lora_unet_{block}_transformer_blocks_{depth}_attn2_to_{which}"
        for block, depths in blocks
        for depth in range(depths)
        for which in "kv"
    }
    named = original_name({"unet/config.json": config}) if base == "sdxl" else lora.module_name
    assert {lora.PREFIX + named(path).replace(".", "_") for path in targets} == wanted
    assert len(targets) == len(wanted) == modules


def test_alpha_scales_and_what_cannot_be_used_is_named():
    shapes = {"unet/a.attn2.to_k.weight": (6, 4)}
    up, down = np.ones((6, 2), np.float32), np.ones((2, 4), np.float32)
    given = {}
    for name in ("lora_unet_a_attn2_to_k", "lora_unet_a_attn1_to_k", "lora_te_text_model_layers_0_q_proj"):
        given |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": np.float32(1)}
    given["lora_unet_a_attn2_to_q.lora_up.weight"] = up
    given["something"] = up
    found = lora_reader.read(given, shapes)
    assert np.array_equal(found.deltas["unet/a.attn2.to_k.weight"], np.ones((6, 4)))
    assert found.unused == {"self-attention": 1, "text encoder": 1, "cross-attention's queries and outputs": 1}
    assert (found.unread, found.misfits, found.modules) == (("something",), (), 4)
    # Two whole adapters of the same size, of which one is used, and one in the text encoder that is not; half is half.
    assert found.share == pytest.approx(1 / 3)
    assert (found.rank, found.scale) == (2, 0.5)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("oft_blocks", "OFT"),
        ("dora_scale", "DoRA"),
        ("lora_mid.weight", "Tucker"),
    ],
)
def test_other_products_are_not_taken_for_a_lora(part, kind):
    path = "unet/a.attn2.to_k.weight"
    given = dict(arrays(lora.lora({path: matrix(6, 4, 2)}).tensors))
    given[f"lora_unet_a_attn2_to_k.{part}"] = np.ones((2, 2), np.float32)
    found = lora_reader.read(given, {path: (6, 4)})
    assert (found.deltas, found.unused, found.misfits) == ({}, {kind: 1}, ())


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 1.0),
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": 8, "alpha_pattern": {"a.attn2.to_k": 2}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"attn2.to_k": 2}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"attn1.to_k": 2}}, 2.0),
    ],
)
def test_settings_of_peft_scale_what_has_no_alpha(config, scale):
    up, down = matrix(6, 4, 4), matrix(4, 5, 4)
    given = {"unet.a.attn2.to_k.lora_B.weight": up, "unet.a.attn2.to_k.lora_A.weight": down}
    found = lora_reader.read(given, {"unet/a.attn2.to_k.weight": (6, 5)}, config=config)
    assert relative(found.deltas["unet/a.attn2.to_k.weight"], scale * (up @ down)) < 1e-6


@pytest.mark.parametrize(
    "config", [{"lora_alpha": "8"}, {"lora_alpha": 10**400}, {"alpha_pattern": {"a.*": 2}}, {"alpha_pattern": [1]}]
)
def test_settings_that_cannot_be_read_are_no_scale_of_one(config):
    with pytest.raises(ValueError, match="cannot be read"):
        lora_reader.read({}, {}, config=config)


@pytest.mark.parametrize("shape", [(6, 7), (5, 4)])
def test_a_target_of_another_shape_is_a_misfit(shape):
    path = "unet/a.attn2.to_k.weight"
    found = lora_reader.read(arrays(lora.lora({path: matrix(*shape, 2)}).tensors), {path: (6, 4)})
    assert (found.deltas, found.misfits) == ({}, (("a_attn2_to_k", shape),))
    found = lora_reader.read(arrays(lora.lora({"unet/b.attn2.to_k.weight": matrix(6, 4, 2)}).tensors), {path: (6, 4)})
    assert found.misfits == (("b_attn2_to_k", (6, 4)),)


def test_what_a_module_changes_is_measured_without_making_it():
    """Convolutions too, of which the factors are 4-dimensional."""
    up, down = matrix(6, 2, 2), matrix(2, 36, 2)
    key = "lora_unet_a_resnets_0_conv1"
    given = {f"{key}.lora_up.weight": up.reshape(6, 2, 1, 1), f"{key}.lora_down.weight": down.reshape(2, 4, 3, 3)}
    path = "unet/a.attn2.to_k.weight"
    given |= arrays(lora.diff({path: matrix(6, 4, 4)}).tensors)
    found = lora_reader.read(given, {path: (6, 4)})
    used, other = (np.linalg.norm(each) ** 2 for each in (found.deltas[path], up @ down))
    assert found.share == pytest.approx(used / (used + other), rel=1e-5)
    assert found.unused == {"convolutions": 1}


def test_weights_reads_what_is_written():
    tensor = lora.as_tensor(np.arange(6, dtype=np.float32).reshape(2, 3), "BF16")
    info = tensorfile.TensorInfo(tensor.dtype, tensor.shape, 0, 12)
    assert np.array_equal(weights.to_array(info, memoryview(tensor.data)), np.arange(6).reshape(2, 3))
