"""The optimizer: its matrix step against the definition and torch's Muon, its other step against torch's AdamW."""

import pytest
import torch
from torch import nn

from conceptctl.learning.muon import Muon, is_matrix, orthogonalized


@pytest.mark.parametrize("shape", [(32, 288), (64, 64), (288, 32)])
def test_singular_values_are_pushed_towards_one_and_directions_are_kept(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    # The definition: the polynomial 3.4445 s - 4.7750 s^3 + 2.0315 s^5, five times, on each singular value.
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    (found,) = orthogonalized([matrix[None]])
    torch.testing.assert_close(found[0].double(), u @ s.diag() @ v, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (64, 64)], ids=["wide", "tall", "square"])
@pytest.mark.parametrize(("in_bfloat16", "tolerance"), [(True, 0.02), (False, 1e-4)], ids=["as-is", "fp32"])
def test_one_matrix_is_trained_as_torchs_muon_trains_it(shape, in_bfloat16, tolerance, monkeypatch):
    # torch rounds a matrix to bfloat16 (8 bits) before it orthogonalizes it, and each iteration's products: that is up
    # to 1.1 % of the way here. Where it is kept from that, what is left is up to 2e-5: ours multiplies the iterations
    # up on the Gram matrix, and adds to the norm the 1e-7 that torch's is at least.
    if not in_bfloat16:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    generator = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, *shape, generator=generator)
    inputs = torch.randn(shape[1], 4 * shape[1], generator=generator)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    mine = Muon([ours], 0.02, weight_decay=0.1)
    reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(8):
        for parameter, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            ((parameter - target) @ inputs).square().mean().backward()
            optimizer.step()
        assert (ours - theirs).norm() < tolerance * (theirs - start).norm()


def test_what_is_no_matrix_gets_adamw():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 12)) for _ in range(2))
    mine = Muon([ours], 0.01)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.98), weight_decay=0.0)
    for _ in range(20):
        for parameter, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            (parameter.sin() * torch.arange(12.0)).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_convolutions_and_matrices_are_matrices_and_small_ones_are_not():
    assert is_matrix(nn.Conv2d(16, 32, 3).weight)
    assert is_matrix(nn.Linear(64, 64).weight)
    assert is_matrix(nn.Conv2d(256, 256, 3).weight)
    assert not is_matrix(nn.Linear(256, 256).weight)
    assert not is_matrix(nn.Conv2d(16, 3, 3).weight)
    assert not is_matrix(nn.Linear(64, 64).bias)


def test_weight_decay_shrinks_matrices_only():
    layer = nn.Linear(16, 16)
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = Muon(layer.parameters(), 0.1, weight_decay=0.5)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight, before[0] * 0.95)
    torch.testing.assert_close(layer.bias, before[1])


def test_groups_have_learning_rates_of_their_own():
    slow, fast = (nn.Parameter(torch.zeros(16, 16)) for _ in range(2))
    optimizer = Muon([{"params": [slow], "lr": 0.01}, {"params": [fast], "lr": 0.02}], 1.0)
    for parameter in (slow, fast):
        parameter.grad = torch.eye(16)
    optimizer.step()
    torch.testing.assert_close(fast.detach(), 2 * slow.detach())
    assert slow.detach().abs().max() > 0


def test_a_group_can_have_stacks_of_which_every_matrix_is_made_orthogonal():
    wide, narrow = nn.Parameter(torch.zeros(2, 2, 30)), nn.Parameter(torch.zeros(3, 40, 2))
    optimizer = Muon([{"params": [wide, narrow], "stacks": True}], 0.1)
    generator = torch.Generator().manual_seed(0)
    wide.grad = torch.randn(2, 2, 30, generator=generator) * torch.tensor([[1.0], [0.1]])
    narrow.grad = torch.randn(3, 40, 2, generator=generator) * torch.tensor([1.0, 0.1])
    optimizer.step()
    for matrix in [*wide.detach(), *narrow.detach()]:
        longest, shortest = torch.linalg.svdvals(matrix)
        assert shortest > 0.5 * longest


def test_a_stack_is_updated_as_its_matrices_would_be():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(3, 3, 40, 16, generator=generator)
    stack = nn.Parameter(torch.zeros(3, 40, 16))
    alone = [nn.Parameter(torch.zeros(40, 16)) for _ in range(3)]
    optimizers = [Muon([{"params": [stack], "stacks": True}], 0.1), Muon(alone, 0.1)]
    for of_step in gradients:
        stack.grad = of_step
        for parameter, gradient in zip(alone, of_step, strict=True):
            parameter.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(stack, torch.stack(list(alone)))


def test_matrices_are_updated_together_as_each_would_be_alone():
    torch.manual_seed(0)
    # Of one shape as matrices, and others with the same short side: wide, tall and square.
    layers = [nn.Conv2d(16, 32, 3, bias=False), nn.Conv2d(16, 32, 3, bias=False), nn.Linear(144, 32, bias=False)]
    layers += [nn.Linear(*sides, bias=False) for sides in ((200, 32), (32, 100), (32, 32), (100, 16))]
    together = [layer.weight for layer in layers]
    alone = [nn.Parameter(weight.detach().clone()) for weight in together]
    optimizers = [Muon(together, 0.1), *(Muon([weight], 0.1) for weight in alone)]
    for step in range(3):
        for weights in (together, alone):
            for scale, weight in enumerate(weights, start=1):
                weight.grad = (weight.detach() * scale * (step + 1)).sin()
        for optimizer in optimizers:
            optimizer.step()
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs)
