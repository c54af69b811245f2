"""The denoising objective: what is drawn, what is compared, and how much it counts."""

import pytest
import torch

from conceptctl.errors import DeviceFailed
from conceptctl.families import sd
from conceptctl.learning.backbone import Noising
from tests.tiny_pipeline import WIDTH, write_tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backbone(request, tmp_path_factory):
    folder = write_tiny_pipeline(tmp_path_factory.mktemp("base"), prediction_type=request.param)
    return sd.load(folder, CPU)


@pytest.fixture
def pipeline(backbone):
    return backbone.pipeline


def objective_of(backbone, **noising):
    return backbone.objective(Noising(**noising))


def loss_at(objective, latents, noise, times, hidden):
    noised = objective._noised(latents, noise, times)
    return objective.loss(objective.predict(noised, hidden), noised)


def hidden_of(backbone, count):
    return backbone.conditions(["a cat"], ()).of_prompt("a cat", torch.arange(count))


def test_the_objective_is_what_the_scheduler_says(pipeline, backbone):
    objective = objective_of(backbone)
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    times = torch.tensor([0, 400, 999])
    hidden = hidden_of(backbone, 3)
    alphas = objective.scheduler.alphas_cumprod[times][:, None, None, None]
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    target = noise
    if pipeline.scheduler.config.prediction_type == "v_prediction":
        target = alphas.sqrt() * noise - (1 - alphas).sqrt() * latents
    predicted = pipeline.unet(noisy, times, hidden).sample
    wanted = (predicted - target).square().mean(dim=(1, 2, 3))
    assert torch.allclose(loss_at(objective, latents, noise, times, hidden), wanted, rtol=1e-4)


def test_times_with_large_errors_are_drawn_more_often_and_count_less(pipeline, backbone):
    uniform, sampled = objective_of(backbone, p2_gamma=1.0), objective_of(backbone, p2_gamma=1.0)
    latents, hidden = torch.randn(4, 4, 8, 8), hidden_of(backbone, 4)
    sampled.importance_sample(latents, hidden, 3)
    probabilities = sampled.probabilities
    assert probabilities.sum().item() == pytest.approx(1.0)
    assert probabilities.min() >= 0.1 / len(probabilities)
    # Whatever the time, what it counts and how often it is drawn make what it counted before.
    assert torch.allclose((sampled.weights * probabilities * len(probabilities)).float(), uniform.weights, rtol=1e-4)
    drawn = torch.cat([sampled.corrupt(latents, torch.Generator().manual_seed(seed)).timesteps for seed in range(2000)])
    # One of a batch of four lies in each quarter of all that can be drawn.
    after = probabilities.cumsum(0)[drawn.view(-1, 4)].sort(dim=1).values
    quarters = torch.arange(5) / 4
    assert (after > quarters[:4]).all()
    assert (after - probabilities.max() < quarters[1:]).all()
    assert drawn.view(-1, 4).argmax(dim=1).unique().tolist() == [0, 1, 2, 3]
    times = torch.arange(len(probabilities))
    assert drawn.float().mean().item() == pytest.approx((times * probabilities).sum().item(), rel=0.03)
    # Samples then count about alike; those of any time at all keep it from being quite so.
    grid = torch.tensor([100, 200, 500, 900])
    noise = torch.randn(4, 4, 8, 8)

    def spread(objective):
        sizes = torch.stack([loss_at(objective, latents, noise, time.expand(4), hidden).mean() for time in grid])
        return (sizes.max() / sizes.min()).item()

    assert spread(uniform) > 5
    assert spread(sampled) < 2


def test_errors_that_are_no_numbers_are_said(pipeline, backbone):
    hidden = hidden_of(backbone, 1)
    with pytest.raises(DeviceFailed, match="no number"):
        objective_of(backbone).importance_sample(torch.full((1, 4, 8, 8), torch.nan), hidden, 1)


def test_times_drawn_by_importance_leave_the_mean_loss_where_it_is(pipeline, backbone):
    uniform, sampled = objective_of(backbone, p2_gamma=1.0), objective_of(backbone, p2_gamma=1.0)
    latents, hidden = torch.randn(50, 4, 8, 8), hidden_of(backbone, 50)
    sampled.importance_sample(latents[:4], hidden[:4], 4)

    def mean(objective):
        generator = torch.Generator().manual_seed(0)
        drawn = (objective.corrupt(latents, generator) for _ in range(20))
        return torch.cat([objective.loss(objective.predict(each, hidden), each) for each in drawn]).mean()

    with torch.no_grad():
        assert mean(sampled).item() == pytest.approx(mean(uniform).item(), rel=0.1)


def test_errors_are_weighted_so_that_no_clean_picture_counts_more_than_gamma(pipeline, backbone):
    # By the definition, on the error of the clean picture: weights min(ratio, gamma) on what the loss is made of.
    gamma, times = 5.0, torch.tensor([5, 300, 900])
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    hidden = torch.randn(3, 8, WIDTH, generator=generator)
    plain = objective_of(backbone)
    kept = plain.scheduler.alphas_cumprod[times].double()[:, None, None, None]
    with torch.no_grad():
        noisy = plain.scheduler.add_noise(latents, noise, times)
        predicted = pipeline.unet(noisy, times, hidden).sample
        if plain.scheduler.config.prediction_type == "epsilon":
            clean = (noisy - (1 - kept).sqrt() * predicted) / kept.sqrt()
        else:
            clean = kept.sqrt() * noisy - (1 - kept).sqrt() * predicted
        ratio = (kept / (1 - kept)).flatten()
        wanted = (clean - latents).square().mean(dim=(1, 2, 3)) * ratio.clamp(max=gamma)
        weighted = loss_at(objective_of(backbone, snr_gamma=gamma), latents, noise, times, hidden)
    assert torch.allclose(weighted.double(), wanted, rtol=1e-3)


@pytest.mark.parametrize("snr_gamma", [0.0, 5.0])
def test_errors_count_more_the_more_noise_there_is(pipeline, backbone, snr_gamma):
    before, after = (
        objective_of(backbone, snr_gamma=snr_gamma),
        objective_of(backbone, snr_gamma=snr_gamma, p2_gamma=0.5),
    )
    kept = before.scheduler.alphas_cumprod
    # 1 + the signal-to-noise ratio is 1 / (1 - kept).
    wanted = (torch.ones(before.times) if before.weights is None else before.weights) * (1 - kept).sqrt()
    assert torch.allclose(after.weights / after.weights[-1], wanted / wanted[-1], rtol=1e-4)
    mean = 1.0 if before.weights is None else before.weights.mean().item()
    assert after.weights.mean().item() == pytest.approx(mean, rel=1e-4)
