"""Loss scaling against torch's own, and a whole training in fp16."""

import pytest
import torch

from conceptctl.families import sd
from conceptctl.learning import scaling
from conceptctl.learning.examples import Examples
from conceptctl.learning.loop import Listener, train
from conceptctl.learning.method import Config, Method, Phase, Task, Trainable
from conceptctl.learning.muon import Muon
from conceptctl.learning.processes import make_accelerator
from conceptctl.learning.scaling import LossScaler
from conceptctl.learning.schedule import Schedule
from conceptctl.methods import find_method
from conceptctl.parts.tokens import TokenEmbedding
from conceptctl.workflows.learn.task import make_task
from tests.tiny_pipeline import write_tiny_pipeline

CPU = torch.device("cpu")
GRADIENTS = [1.0, 2.0, float("inf"), 0.5, float("nan"), 3.0, 1.0]


def stepped(optimizer, parameter, gradients, scale_of, step):
    for value in gradients:
        parameter.grad = (
            torch.full_like(parameter, value) * torch.linspace(-1, 2, parameter.numel()).view_as(parameter)
        ) * scale_of()
        step(optimizer)
    return parameter.detach().clone()


def test_steps_and_scales_are_those_of_torchs_gradient_scaler():
    start = torch.randn(6, generator=torch.Generator().manual_seed(0))
    theirs, ours = (torch.nn.Parameter(start.clone()) for _ in range(2))
    torchs, scaler = torch.amp.GradScaler("cpu"), LossScaler(CPU)
    torchs.scale(torch.ones(()))

    def their_step(optimizer):
        torchs.step(optimizer)
        torchs.update()

    def our_step(optimizer):
        scaler.unscale([ours])
        scaler.update([optimizer])
        optimizer.step()

    adam = torch.optim.Adam([theirs], 0.1, fused=True), torch.optim.Adam([ours], 0.1, fused=True)
    wanted = stepped(adam[0], theirs, GRADIENTS, lambda: torch.tensor(torchs.get_scale()), their_step)
    found = stepped(adam[1], ours, GRADIENTS, lambda: scaler.scale.clone(), our_step)
    assert torch.allclose(found, wanted, rtol=1e-6)
    assert scaler.scale.item() == torchs.get_scale() == 2.0**14
    assert scaler.skipped.item() == 2
    assert adam[1].state[ours]["step"] == len(GRADIENTS) - 2


def test_the_scale_grows_after_a_long_time_that_was_well():
    scaler = LossScaler(CPU)
    parameter = torch.nn.Parameter(torch.zeros(1))
    for _ in range(2000):
        parameter.grad = torch.ones(1)
        scaler.unscale([parameter])
        scaler.update([])
    assert scaler.scale.item() == 2.0**17


def test_muon_leaves_a_step_out_that_has_no_numbers():
    start = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    results = []
    for gradients in (GRADIENTS, [value for value in GRADIENTS if abs(value) < 9]):
        parameter, scaler = torch.nn.Parameter(start.clone()), LossScaler(CPU)
        muon = Muon([{"params": [parameter], "lr": 0.1, "stacks": True}], 0.1)

        def step(optimizer, parameter=parameter, scaler=scaler):
            scaler.unscale([parameter])
            scaler.update([optimizer])
            optimizer.step()

        stepped(muon, parameter, gradients, lambda scaler=scaler: scaler.scale.clone(), step)
        results.append((parameter.detach(), muon.state[parameter]["momentum"]))
    (left_out, momentum), (without, wanted) = results
    assert torch.allclose(left_out, without, atol=1e-6)
    assert torch.allclose(momentum, wanted, rtol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("base"))


def learned(folder, dtype, state=None, **told):
    """A whole STAMINA of six steps on the tiny pipeline: its end, and the rows of its token."""
    backbone = sd.load(folder, CPU, dtype=dtype)
    start = backbone.token_start("cat")
    alice = backbone.add_token("alice", start)
    method = find_method("stamina")(find_method("stamina").configuration(steps=6, batch_size=2, rank=2))
    generator = torch.Generator().manual_seed(0)
    examples = Examples(torch.randn(4, 4, 8, 8, generator=generator), ["a photo of a V*alice"] * 4, 4)
    task = make_task(backbone, method, token_ids=[alice], token_start=start, prompt="V*alice")
    trainable = method.attach(task)
    end = train(
        backbone, [alice], method, task, trainable, examples,
        accelerator=make_accelerator(CPU), state=state, listener=Listener(**told),
    )  # fmt: skip
    return end, (trainable.tokens()["text_encoder"] - start["text_encoder"]).detach().flatten()


def test_a_network_in_fp16_learns_as_one_in_fp32_and_goes_on_where_it_was(folder):
    kept = []
    half, moved = learned(folder, torch.float16, save=kept.append, save_seconds=0.0)
    assert (half.tensors["scaling/scale"], half.tensors["scaling/in_a_row"]) == (2.0**16, 6)
    assert all(tensor.dtype == torch.float32 for name, tensor in half.tensors.items() if name.startswith("parameter/"))
    assert kept[2].step == 3
    resumed, _ = learned(folder, torch.float16, state=kept[2])
    assert all(torch.equal(tensor, resumed.tensors[name]) for name, tensor in half.tensors.items())
    full, wanted = learned(folder, torch.float32)
    assert "scaling/scale" not in full.tensors
    assert torch.nn.functional.cosine_similarity(moved, wanted, dim=0) > 0.9


def test_steps_whose_gradients_are_too_large_are_left_out_and_counted(folder, monkeypatch):
    monkeypatch.setattr(scaling, "_FIRST", 2.0**40)
    kept = []
    end, moved = learned(folder, torch.float16, save=kept.append, save_seconds=0.0)
    skipped = end.tensors["scaling/skipped"].item()
    assert 0 < skipped == 40 - end.tensors["scaling/scale"].log2().item()
    assert kept[0].tensors["scaling/skipped"] == 1
    assert moved.isfinite().all()
    assert moved.any() == (skipped < 6)
    resumed, _ = learned(folder, torch.float16, state=kept[1])
    assert resumed.tensors["scaling/skipped"] == skipped


class Fisher(Method):
    """Adds up squared gradients, as a Fisher matrix is."""

    name, paper = "fisher", "-"

    def phases(self, task, trainable):
        self.squares = []
        (parameter,) = trainable.token.parameters()

        def add():
            self.squares.append(parameter.grad.square().sum().item())

        def loss(step):
            return {"denoising": step.mean(step.loss())}

        yield Phase("measuring", Schedule(3, 2), loss, [{"params": [parameter], "lr": 0.0}], gradients=add)


def measured(folder, dtype):
    """What three batches' squared gradients are, of those that were kept, and the end."""
    backbone = sd.load(folder, CPU, dtype=dtype)
    alice = backbone.add_token("alice", backbone.token_start("cat"))
    method = Fisher(Config())
    generator = torch.Generator().manual_seed(0)
    examples = Examples(torch.randn(4, 4, 8, 8, generator=generator), ["a photo of a V*alice"] * 4, 4)
    token = TokenEmbedding(backbone.token_start("cat"))
    end = train(
        backbone, [alice], method, Task({}, backbone.token_start("cat")), Trainable(None, token, 1e-3), examples,
        accelerator=make_accelerator(CPU),
    )  # fmt: skip
    return method.squares, end


def test_gradients_that_are_no_steps_are_unscaled_too(folder):
    half, full = (measured(folder, dtype)[0] for dtype in (torch.float16, torch.float32))
    assert half == pytest.approx(full, rel=0.05)


def test_gradients_that_are_left_out_are_not_measured(folder, monkeypatch):
    monkeypatch.setattr(scaling, "_FIRST", 2.0**40)
    squares, end = measured(folder, torch.float16)
    skipped = int(end.tensors["scaling/skipped"])
    assert skipped > 0
    assert len(squares) == 3 - skipped
