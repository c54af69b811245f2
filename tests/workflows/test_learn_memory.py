"""A step is fitted into memory: by what is free, by --low-vram, and after memory ran out."""

# ruff: noqa: F811 - fixtures are asked for by the names that they are imported under

import pytest
import torch

from conceptctl.cli.learn_text import fit_text
from conceptctl.config import TrainConfig
from conceptctl.errors import DeviceFailed, UsageError
from conceptctl.families import sd
from conceptctl.methods import find_method
from conceptctl.store import jobs
from conceptctl.workflows.learn import memory
from conceptctl.workflows.learn.memory import AdapterBytes, Fit, adapter_bytes, fit
from conceptctl.workflows.learn.request import Watch, check_facts
from conceptctl.workflows.learn.task import make_task
from tests.small_learn import STEPS, asked, base_folder, folder, small_pictures, store, teach  # noqa: F401

MB = 2**20
CPU = torch.device("cpu")


def needed(micro_batch, checkpointing):
    return micro_batch * (100 if checkpointing else 1000) * MB


@pytest.mark.parametrize(
    ("free", "chosen"),
    [
        (20_000, (16, False)), (10_000, (8, False)), (3_000, (2, False)), (2_400, (16, True)), (1_300, (8, True)),
        (450, (1, True)), (10, (1, True)),
    ],
)  # fmt: skip
def test_as_many_samples_go_together_as_there_is_room_for(free, chosen):
    found = fit(needed, 16, free * MB)
    assert (found.micro_batch, found.checkpointing) == chosen
    assert found.needed > needed(*chosen)
    assert (found.needed <= found.free) == (free > 10)


def test_what_an_adapter_takes_is_counted_on_it(base_folder):
    backbone = sd.load(base_folder, CPU)
    start = backbone.token_start("cat")
    found = {}
    for name in ("lora", "stamina"):
        method = find_method(name)(find_method(name).configuration(rank=2))
        task = make_task(backbone, method, token_ids=[], token_start=start, prompt="V*a")
        trainable = method.attach(task)
        before = {key: value.clone() for key, value in trainable.state_dict().items()}
        # A CPU keeps a table of noise from then on.
        trainable.deltas(torch.Generator())
        found[name] = adapter_bytes(trainable, backbone.targets())
        assert found[name].lasting == 3 * sum(each.numel() * 4 for each in trainable.parameters())
        assert all(torch.equal(value, before[key]) for key, value in trainable.state_dict().items())
        assert all(parameter.grad is None for parameter in trainable.parameters())
    entries = sum(weight.weight.numel() for weight in backbone.targets().values())
    # A delta and a sum of every entry, and a copy of the weight; masked ones are made where they are used.
    assert found["stamina"].held < 4 * entries < 3 * 4 * entries <= found["lora"].held
    assert AdapterBytes(1, 10, 50).with_activations(20) == 51
    assert AdapterBytes(1, 10, 50).with_activations(100) == 111


def test_on_a_gpu_it_is_chosen_by_what_is_free(base_folder, monkeypatch):
    backbone = sd.load(base_folder, CPU)
    method = find_method("lora")(find_method("lora").configuration(rank=2))
    start = backbone.token_start("cat")
    task = make_task(backbone, method, token_ids=[], token_start=start, prompt="V*a")
    trainable = method.attach(task)
    assert memory.fitted(trainable, backbone, (4, 8, 8), 4) is None
    monkeypatch.setattr(memory, "_WORKSPACE", 0)
    whole = adapter_bytes(trainable, backbone.targets()).with_activations(
        backbone.training_peak((4, 8, 8), 4, checkpointing=False)
    )
    for free, together in ((2 * whole, 4), (int(0.9 * whole), 2)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        backbone.device = torch.device("cuda")
        found = memory.fitted(trainable, backbone, (4, 8, 8), 4)
        backbone.device = CPU
        assert (found.micro_batch, found.checkpointing, found.free) == (together, False, free)


def test_with_low_vram_samples_go_one_by_one(store, folder, monkeypatch):
    told, seen = [], []
    backbones = []
    from conceptctl.workflows.learn import training

    plain = training.train

    def watched(backbone, *args, **how):
        backbones.append(backbone)
        backbone.pipeline.unet.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        assert backbone.pipeline.unet.is_gradient_checkpointing
        return plain(backbone, *args, **how)

    monkeypatch.setattr(training, "train", watched)
    teach(store, folder, watch=Watch(fitted=told.append), low_vram=True)
    assert told == [Fit(1, True)]
    assert set(seen) == {1}
    assert len(backbones) == 1
    assert fit_text(told[0]) == "memory: 1 sample at a time, gradients checkpointed"
    assert "about 2.0 GB beside the model, of 3.0 GB" in fit_text(Fit(4, False, 2 * 10**9, 3 * 10**9))


def test_after_memory_ran_out_the_same_command_goes_on_with_low_vram(store, folder, monkeypatch):
    from conceptctl.learning import step as running

    plain, counts = running.BatchStep.predict, []

    def predict(self, *args, **how):
        counts.append(len(self.chosen))
        if len(counts) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, *args, **how)

    monkeypatch.setattr(running.BatchStep, "predict", predict)
    with pytest.raises(DeviceFailed, match="out of GPU memory") as raised:
        teach(store, folder)
    assert "--low-vram" in raised.value.hint
    assert [job.load().step for job in jobs.found(store.layout)] == [3]
    stages = []
    teach(store, folder, low_vram=True, watch=Watch(stage=lambda what, total: stages.append(what)))
    assert "going on with an interrupted run, from step 3" in stages
    assert set(counts[4:]) == {1}
    assert store.head().seq == 1
    counts.clear()
    with pytest.raises(DeviceFailed) as raised:
        teach(store, folder, "bob", low_vram=True)
    assert "--low-vram" not in raised.value.hint
    assert "nvidia-smi" in raised.value.hint


def test_numbers_that_cannot_be_meant_are_refused(folder):
    with pytest.raises(UsageError, match="1 or more samples"):
        check_facts(asked(folder, micro_batch=0))
    with pytest.raises(UsageError, match="one at a time"):
        check_facts(asked(folder, micro_batch=2, low_vram=True))
    check_facts(asked(folder, micro_batch=2, train=TrainConfig(steps=STEPS)))
