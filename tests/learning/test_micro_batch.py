"""A step's batch in parts that memory holds: the same samples, noise, times and deltas, and the same gradient."""

import pytest
import torch

from conceptctl.families import sd
from conceptctl.learning.examples import Examples
from conceptctl.learning.loop import Listener, denoising_loss, train
from conceptctl.learning.processes import make_accelerator
from conceptctl.learning.schedule import Schedule
from conceptctl.methods import find_method
from conceptctl.workflows.learn.task import make_task
from tests.tiny_pipeline import write_tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    loaded = sd.load(write_tiny_pipeline(tmp_path_factory.mktemp("base")), CPU)
    loaded.alice = loaded.add_token("alice", loaded.token_start("cat"))
    return loaded


def examples():
    latents = torch.randn(7, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Examples(latents, ["a photo of a V*alice"] * 4 + ["a photo of a cat"] * 3, 4)


def learned(backbone, micro_batch, method="stamina", state=None, steps=3, **told):
    """A short training, and what is in it at its end."""
    found = find_method(method)
    made = found(found.configuration(steps=steps, batch_size=3, auxiliary_batch=2, rank=2))
    start = backbone.token_start("cat")
    task = make_task(backbone, made, token_ids=[backbone.alice], token_start=start, prompt="V*alice", class_word="cat")
    trainable = made.attach(task)
    end = train(
        backbone, [backbone.alice], made, task, trainable, examples(),
        accelerator=make_accelerator(CPU), micro_batch=micro_batch, state=state, listener=Listener(**told),
    )  # fmt: skip
    return end, trainable


@pytest.mark.parametrize("method", ["stamina", "ti++"])
def test_however_many_go_through_together_the_same_is_learned(backbone, method):
    told, ends = {}, {}
    for micro_batch in (None, 5, 2, 1):
        told[micro_batch] = []
        ends[micro_batch], _ = learned(backbone, micro_batch, method, report=told[micro_batch].append, report_steps=1)
    whole = ends[None].tensors
    assert all(torch.equal(tensor, ends[5].tensors[name]) for name, tensor in whole.items())
    for micro_batch in (2, 1):
        for name, tensor in ends[micro_batch].tensors.items():
            if name.endswith("/exp_avg"):
                assert torch.allclose(tensor, whole[name], rtol=1e-3, atol=1e-3 * whole[name].abs().max().item()), name
        for mine, theirs in zip(told[micro_batch], told[None], strict=True):
            assert mine.losses == pytest.approx(theirs.losses, rel=1e-4)


def test_the_network_never_sees_more_than_the_part(backbone):
    seen = []
    hook = backbone.pipeline.unet.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    try:
        _, trainable = learned(backbone, 2, steps=1)
        assert seen == [1, 2, 2]
        losses = {}
        for micro_batch in (None, 2):
            seen.clear()
            losses[micro_batch] = denoising_loss(
                backbone, [backbone.alice], trainable, examples(), Schedule(1, 3, 2),
                accelerator=make_accelerator(CPU), micro_batch=micro_batch, batches=2,
            )  # fmt: skip
            assert seen == ([5, 5] if micro_batch is None else [1, 2, 2] * 2)
        assert losses[2] == pytest.approx(losses[None], rel=1e-5)
    finally:
        hook.remove()


def test_a_phase_that_holds_several_predictions_of_a_sample_has_fewer_samples(backbone):
    told = []
    for micro_batch in (None, 4):
        seen, reports = [], []
        hook = backbone.pipeline.unet.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(len(inputs[0]))
        )
        try:
            learned(backbone, micro_batch, "ewc-dc", report=reports.append, report_steps=1)
        finally:
            hook.remove()
        told.append((seen, reports))
    (whole, once), (parts, again) = told
    # Three concept's pictures under their own prompt, and under the class's and the concept's; 3 x 6 are more than 4.
    assert whole[-3:] == [3, 3, 3]
    assert parts[-9:] == [1] * 9
    assert again[-1].losses == pytest.approx(once[-1].losses, rel=1e-4)


def test_out_of_memory_keeps_what_is_learned_and_it_goes_on_in_smaller_parts(backbone):
    kept, steps = [], []

    def run_out(module, inputs):
        # The fourth step is the first that does not fit.
        if len(inputs[0]) == 5 and len(steps) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = backbone.pipeline.unet.register_forward_pre_hook(run_out)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            learned(backbone, None, steps=5, save=kept.append, step=steps.append)
        assert [state.step for state in kept] == [3]
        end, _ = learned(backbone, 2, steps=5, state=kept[0], step=steps.append)
    finally:
        hook.remove()
    whole, _ = learned(backbone, None, steps=5)
    assert end.step == whole.step == 5
    for name, tensor in end.tensors.items():
        if name.endswith("/exp_avg"):
            wanted = whole.tensors[name]
            assert torch.allclose(tensor, wanted, rtol=1e-2, atol=1e-2 * wanted.abs().max().item()), name
