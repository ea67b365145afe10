"""What every hook that adds a loss obeys, and how the smallest one is written."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmsparse.engine import Collecting, LossHook, SparsityHook, TeacherHook
from mmsparse.registry import HOOKS
from projects.adavit import UsageHook
from projects.patch_slimming import SignificanceHook
from projects.sait import TokenDistillHook
from projects.sparsifiner import ConnectivityHook
from projects.tpc import SmoothDecisionsHook, TokenCutHook


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.part = nn.Linear(3, 2, bias=False)
        nn.init.constant_(self.part.weight, 2.0)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        output = self.part(inputs)
        return dict(loss_toy=output.mean(), loss_list=[output.sum()], acc=output.max()) if mode == "loss" else output


class SizeHook(LossHook):
    """The squares of what a part gives."""

    name = "loss_size"

    def __init__(self, weight=1.0):
        super().__init__(weight=weight)
        self.asked = []

    def watch(self, model):
        return [model.part.register_forward_hook(lambda part, args, output: self.seen.append(output.square().mean()))]

    def losses(self, model, call, seen):
        self.asked.append(call)
        return {self.name: self.weight * sum(seen), "looks": torch.tensor(float(len(seen)))}


def toy():
    return Toy().train()


def test_the_entries_are_added_and_others_stay():
    model, hook, x = toy(), SizeHook(weight=3.0), torch.ones(2, 3)
    hook.attach(model)
    losses = model(x, ["a", "b"], mode="loss")
    assert list(losses) == ["loss_toy", "loss_list", "acc", "loss_size", "looks"]
    assert losses["loss_size"].item() == 3.0 * 6.0**2 and losses["looks"] == 1
    assert losses["loss_toy"] == losses["acc"] == 6 and losses["loss_list"][0] == 24
    total, logged = model.parse_losses(losses)
    assert total.item() == 6 + 24 + 108 and logged["looks"] == 1
    total.backward()  # each of the weight's six entries is in two of the four outputs
    torch.testing.assert_close(model.part.weight.grad, torch.full((2, 3), 0.5 + 2 + 3 * 6.0))


@pytest.mark.parametrize("passed", ["by position", "by name"])
def test_a_hook_is_told_the_call(passed):
    model, hook, x = toy(), SizeHook(), torch.ones(1, 3)
    hook.attach(model)
    if passed == "by name":
        model(mode="loss", data_samples=["a"], inputs=x)
    else:
        model(x, ["a"], "loss")
    (call,) = hook.asked
    assert call.inputs is x and call.samples == ["a"] and call.mode == "loss"


@pytest.mark.parametrize("mode", ["tensor", "predict"])
def test_other_modes_are_left_alone_and_leave_nothing(mode):
    model, hook, x = toy(), SizeHook(), torch.ones(1, 3)
    hook.attach(model)
    assert torch.equal(model(x, mode=mode), torch.full((1, 2), 6.0)) and hook.seen == []
    assert model(x, mode="loss")["looks"] == 1
    assert len(hook.asked) == 1


def test_nothing_is_added_without_gradients():
    model, hook, x = toy(), SizeHook(), torch.ones(1, 3)
    hook.attach(model)
    with torch.no_grad():
        assert list(model(x, mode="loss")) == ["loss_toy", "loss_list", "acc"]
    assert hook.asked == hook.seen == []


def test_what_is_seen_outside_of_a_step_is_not_of_the_next():
    model, hook, x = toy(), SizeHook(), torch.ones(1, 3)
    hook.attach(model)
    model.part(x)
    hook.before_train_iter(SimpleNamespace(model=model), 0)
    model.part(x)  # a second pass of the step
    assert model(x, mode="loss")["looks"] == 2


def test_a_second_of_its_kind_is_refused_and_changes_nothing():
    class Child(SizeHook):
        pass

    class Other(SizeHook):
        name = "loss_other"

    model, hook = toy(), SizeHook()
    hook.attach(model)
    for second in (SizeHook(), Child()):
        own = type(second).__name__
        with pytest.raises(RuntimeError, match=f"^{own}: a SizeHook adds 'loss_size' .* already. Keep one"):
            second.attach(model)
    Other().attach(model)
    losses = model(torch.ones(1, 3), mode="loss")
    assert losses["loss_size"] == losses["loss_other"] == 36 and losses["looks"] == 1


def test_handles_end_with_the_training():
    model, hook, x = toy(), SizeHook(), torch.ones(1, 3)
    runner = SimpleNamespace(model=model)
    for _ in range(2):  # a second training, and one that begins where another was cut off
        hook.before_train(runner)
        hook.before_train(runner)
        assert len(model._forward_hooks) == len(model.part._forward_hooks) == 1
        assert model(x, mode="loss")["looks"] == 1
        hook.after_train(runner)
        assert not model._forward_hooks and not model.part._forward_hooks
        assert "looks" not in model(x, mode="loss")
    SizeHook().attach(model)


def test_in_a_wrapper_the_model_itself_is_attached_to(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        results = []
        for wrap in (DistributedDataParallel, lambda model: model):
            model, hook = toy(), SizeHook()
            runner = SimpleNamespace(model=wrap(model))
            hook.before_train(runner)
            assert len(model._forward_hooks) == 1 and list(model.state_dict()) == ["part.weight"]
            hook.before_train_iter(runner, 0)
            losses = runner.model(torch.ones(1, 3), mode="loss")
            losses["loss_size"].backward()
            results.append((losses, model.part.weight.grad))
        torch.testing.assert_close(*results)
    finally:
        torch.distributed.destroy_process_group()


def test_parts_are_told_that_somebody_collects():
    part = nn.Identity()
    handle = Collecting([part])
    assert part.collected
    handle.remove()
    assert not part.collected


def test_weights_are_numbers_that_are_kept():
    assert SizeHook(2).weight == 2
    with pytest.raises(ValueError, match="^SizeHook: expected argument `weight` to be >= 0, but got -1"):
        SizeHook(-1)
    with pytest.raises(TypeError, match="^SizeHook: expected argument `weight` to be a number >= 0, but got '1'"):
        SizeHook("1")


def test_hooks_that_add_losses_are_its_children():
    """Each kind with a name of its own, and nobody else attaches to models."""
    kinds = [SparsityHook, TeacherHook, ConnectivityHook, SmoothDecisionsHook, TokenCutHook, UsageHook]
    assert len({kind.name for kind in kinds}) == 6
    assert SignificanceHook.name == SparsityHook.name and TokenDistillHook.name == TeacherHook.name
    assert all(issubclass(hook, LossHook) for hook in HOOKS.module_dict.values() if hasattr(hook, "attach"))
