"""8-bit Adam, whose library need not be there: what it keeps goes through a checkpoint as it was."""

import sys
import types

import pytest
import torch

from conceptctl.errors import UsageError
from conceptctl.learning import optim
from conceptctl.learning.checkpoint import restore, tensors_of
from conceptctl.learning.method import Trainable
from conceptctl.learning.optim import check_optimizer, leaves_out, make_optimizers
from conceptctl.parts.tokens import TokenEmbedding


class Adam8bit(torch.optim.Optimizer):
    """Keeps what bitsandbytes' does, in the same types: a number, moments of a byte with scales, small ones whole.

    A sign step that depends on all of it.
    """

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                small = parameter.numel() < 8
                if not state:
                    state["step"] = 0
                    for name in ("state1", "state2"):
                        state[name] = torch.zeros_like(parameter, dtype=torch.float32 if small else torch.uint8)
                    if not small:
                        state["qmap1"] = torch.linspace(-1, 1, 256)
                assert type(state["step"]) is int
                assert state["state1"].dtype == (torch.float32 if small else torch.uint8)
                state["step"] += 1
                state["state1"] += (parameter.grad > 0).to(state["state1"].dtype) * state["step"]
                parameter.sub_(state["state1"].float() * group["lr"] / state["step"])


@pytest.fixture
def eight_bits(monkeypatch):
    module = types.ModuleType("bitsandbytes")
    module.optim = types.SimpleNamespace(Adam8bit=Adam8bit)
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)


def stepped(trainable, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in trainable.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_eight_bit_adam_goes_on_from_a_checkpoint_as_it_was(eight_bits):
    def made():
        rows = {"large": torch.zeros(1, 16), "small": torch.zeros(1, 4)}
        trainable = Trainable(None, TokenEmbedding(rows), 0.1)
        (optimizer,) = make_optimizers(trainable.groups(), "adam8bit")
        assert not leaves_out(optimizer)
        return trainable, optimizer, dict.fromkeys(trainable.parameters(), optimizer)

    whole, optimizer, by_parameter = made()
    stepped(whole, optimizer, range(3))
    # As a slot of a job keeps it: everything in fp32.
    kept = {name: value.float() for name, value in tensors_of(whole, by_parameter, {}).items()}
    stepped(whole, optimizer, range(3, 6))
    again, optimizer, by_parameter = made()
    restore(kept, again, by_parameter)
    stepped(again, optimizer, range(3, 6))
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_where_nothing_trains_there_is_no_optimizer(name, eight_bits):
    assert make_optimizers((), name) == []


def test_without_its_library_that_is_said_at_once(monkeypatch):
    monkeypatch.setattr(optim, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="bitsandbytes"):
        check_optimizer("adam8bit")
    for name in ("adam", "muon"):
        check_optimizer(name)
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1, 4, 2))], "lr": 0.1, "factors": True}]
        assert all(leaves_out(each) for each in make_optimizers(groups, name))
