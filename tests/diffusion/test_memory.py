"""What training holds is counted right: against hand-made sums, and on meta as with numbers."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from conceptctl.diffusion.memory import (
    LiveBytes,
    fused_attention,
    text_training_peak,
    training_peak,
    unet_training_peak,
)
from conceptctl.families import sd, sdxl
from tests.tiny_pipeline import write_tiny_pipeline, write_tiny_sdxl

CPU = torch.device("cpu")
BASES = {"sd": (sd, write_tiny_pipeline), "sdxl": (sdxl, write_tiny_sdxl)}


@pytest.fixture(scope="module", params=list(BASES))
def backbone(request, tmp_path_factory):
    family, write = BASES[request.param]
    return family.load(write(tmp_path_factory.mktemp("base")), CPU)


def test_tensors_count_while_something_holds_them_and_views_never():
    before = torch.zeros(100)
    with LiveBytes([before]) as live:
        first = before + 1
        view = first.view(10, 10).t()
        assert live.live == 400
        second = first * 2
        assert (live.live, live.peak) == (800, 800)
        second.add_(1)
        before.add_(1)
        assert live.live == 800
        del first
        assert live.live == 800
        del view
        assert live.live == 400
        third = second.double()
        assert (live.live, live.peak) == (1200, 1200)
        del second, third
    assert (live.live, live.peak) == (0, 1200)


def test_a_linear_layer_holds_what_arithmetic_says():
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).to("meta")
    network.requires_grad_(False)
    clean = torch.empty(5, 8, device="meta")
    found = training_peak(network, [clean], lambda: network(clean))
    # Kept for the way back: what ReLU gave. There is less at every other time.
    assert 5 * 16 * 4 < found < 4 * 5 * 16 * 4


def real_peak(backbone, micro_batch, checkpointing):
    """The same with numbers, with the network's own weights."""
    unet = UNet2DConditionModel.from_config(backbone.pipeline.unet.config).requires_grad_(False)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    names = [path.partition("/")[2] for path in backbone.targets()]
    states = torch.randn(micro_batch, 77, unet.config.cross_attention_dim)
    latents, more = torch.randn(micro_batch, 4, 8, 8), {}
    if unet.config.addition_embed_type:
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(micro_batch, 8), "time_ids": torch.ones(micro_batch, 6)}
    times = torch.zeros(micro_batch, dtype=torch.long)
    trained = [states, *(unet.get_parameter(name) for name in names)]
    return training_peak(unet, trained, lambda: unet(latents, times, encoder_hidden_states=states, **more).sample)


def meta_peak(backbone, micro_batch, checkpointing):
    return unet_training_peak(
        backbone.pipeline.unet.config, [path.partition("/")[2] for path in backbone.targets()],
        shape=(4, 8, 8), micro_batch=micro_batch, tokens=77, dtype=torch.float32, checkpointing=checkpointing,
    )  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
def test_without_numbers_as_much_is_counted_as_with_them(backbone, checkpointing):
    found = meta_peak(backbone, 2, checkpointing)
    # What a CPU's kernels keep beside is not all the same.
    assert found == pytest.approx(real_peak(backbone, 2, checkpointing), rel=0.1)


def test_every_sample_takes_as_much_and_checkpointing_takes_less(backbone):
    one, two, four = (meta_peak(backbone, count, False) for count in (1, 2, 4))
    assert four == pytest.approx(one + 3 * (two - one), rel=0.02)
    assert meta_peak(backbone, 4, True) < 0.7 * four
    text = backbone.training_peak((4, 8, 8), 2, checkpointing=False)
    tokens = backbone.tokenizer().model_max_length
    encoders = sum(text_training_peak(encoder, 2, tokens) for encoder in backbone.text.encoders.values())
    assert encoders > 0
    assert text > encoders


def test_attention_is_torchs_own_again_afterwards(backbone):
    plain = torch.nn.functional.scaled_dot_product_attention
    meta_peak(backbone, 1, True)
    assert torch.nn.functional.scaled_dot_product_attention is plain
    with fused_attention():
        query = torch.randn(1, 2, 3, 4)
        found = torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert torch.equal(found, plain(query, query, query))
