import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

from mmsparse.analysis.score_targets import score_targets
from mmsparse.apis import find_deciders, record_selections
from mmsparse.engine import SparsityHook
from mmsparse.models import DynamicConvNeXt
from mmsparse.sparsity import Geometry, Selection


class Toy(BaseModel):
    """The smallest model that trains the mm way."""

    def __init__(self, sparsity):
        super().__init__()
        self.backbone = DynamicConvNeXt(
            "atto", out_indices=[3], gap_before_final_norm=False, layer_scale_init_value=1.0, sparsity=sparsity
        )

    def forward(self, inputs, data_samples=None, mode="tensor"):
        (x,) = self.backbone(inputs)
        return dict(loss_toy=(x * x.detach().roll(1)).mean()) if mode == "loss" else (x,)


def toy(**sparsity):
    return Toy(dict(keep_ratio=0.7, selector=dict(type="GumbelSelector"), **sparsity)).train()


def test_losses_and_measured_ratios_arrive():
    model = toy()
    SparsityHook(loss_weight=3.0).attach(model)
    with record_selections(model) as taken:
        losses = model(torch.randn(2, 3, 64, 64), mode="loss")
    counted = {f"keep_ratio/{place}": sum(selection.num_keep) / (2 * 16) for place, selection in taken}  # of 4x4 cells
    assert set(losses) == {"loss_toy", "loss_sparsity", "keep_ratio/s2b1", "keep_ratio/s2b2", "keep_ratio/s2b3"}
    assert {name: losses[name].item() for name in counted} == counted
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(total, losses["loss_toy"] + losses["loss_sparsity"])
    assert logged["keep_ratio/s2b1"] == counted["keep_ratio/s2b1"]


def test_loss_value_is_the_papers_formula():
    model = toy()
    SparsityHook(loss_weight=10.0).attach(model)
    seen = []
    for decision in find_deciders(model):
        decision.register_forward_hook(lambda m, a, selection: seen.append(selection))
    losses = model(torch.randn(3, 3, 64, 64), mode="loss")
    expected = sum(
        (s.keep_mask.float().mean(1) - r).square().mean() for s, r in zip(seen, (0.7, 0.5, 0.3), strict=True)
    )
    torch.testing.assert_close(losses["loss_sparsity"], 10 * expected / 3)


def test_checkpoint_keys_do_not_change():
    model = toy()
    keys = list(model.state_dict())
    SparsityHook().attach(model)
    assert list(model.state_dict()) == keys


def test_a_second_hook_is_refused():
    model = toy()
    SparsityHook().attach(model)
    with pytest.raises(RuntimeError, match="^SparsityHook: a SparsityHook adds 'loss_sparsity' .* already"):
        SparsityHook(loss_weight=0.0).attach(model)


def test_two_passes_in_one_step_are_fine():
    model = toy()
    SparsityHook().attach(model)
    with record_selections(model) as taken:
        model.backbone(torch.randn(1, 3, 64, 64))  # a second pass of the same step, as in semi-supervised detectors
        losses = model(torch.randn(1, 3, 64, 64), mode="loss")
    measured = torch.tensor([s.keep_mask.float().mean() for _, s in taken])  # three places, twice
    expected = 10 * (measured - torch.tensor([0.7, 0.5, 0.3] * 2)).square().mean()
    torch.testing.assert_close(losses["loss_sparsity"], expected)
    torch.testing.assert_close(losses["keep_ratio/s2b1"], (measured[0] + measured[3]) / 2)


def test_checkpointing_from_outside_is_refused():
    """mmengine's activation_checkpointing runs the forward without gradients first: nothing could be learned."""
    model = toy().train()
    SparsityHook().attach(model)
    turn_on_activation_checkpointing(model, ["backbone"])
    with pytest.raises(RuntimeError, match="nothing was decided in a training step.*with_cp=True"):
        model(torch.randn(1, 3, 64, 64, requires_grad=True), mode="loss")


def test_scorers_frozen_with_their_stages_are_named():
    model = toy()
    model.backbone.router.freeze_before((9, 0))
    with pytest.warns(UserWarning, match="are frozen with their stages and learn nothing"):
        SparsityHook().attach(model)


def test_other_modes_are_left_alone():
    model = toy()
    SparsityHook().attach(model)
    x = torch.randn(1, 3, 64, 64)
    for training, mode in ((True, "tensor"), (False, "predict")):
        model.train(training)
        torch.manual_seed(1)
        (found,) = model(x, mode=mode)
        torch.manual_seed(1)
        assert torch.equal(found, model.backbone(x)[0])


@pytest.mark.parametrize("trained", [False, True])
def test_forgotten_hook(trained):
    model, hook = toy(), SparsityHook()
    if trained:  # it collects no longer
        hook.attach(model)
        hook.after_train(None)
    model(torch.randn(1, 3, 64, 64), mode="loss")
    with pytest.raises(RuntimeError, match="mmsparse.SparsityHook"):
        model(torch.randn(1, 3, 64, 64), mode="loss")


def test_schedule_depends_on_the_iteration_alone():
    hook = SparsityHook(anneal=(0.1, 0.6))
    assert [hook.progress(i, 100) for i in (0, 10, 35, 60, 99)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert SparsityHook(anneal=None).progress(0, 100) == 1.0
    assert SparsityHook(anneal=(0.0, 0.0)).progress(0, 100) == 1.0


@pytest.mark.parametrize(
    "kwargs, message",
    [(dict(anneal=(0.5, 0.2)), "`anneal`"), (dict(anneal=[0.5]), "`anneal`"), (dict(loss_weight=-1), "`loss_weight`")],
)
def test_mistakes_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SparsityHook(**kwargs)


def test_weights_are_numbers():
    with pytest.raises(TypeError, match="SparsityHook: expected argument `loss_weight` to be a number >= 0, .* '10'"):
        SparsityHook(loss_weight="10")


def test_a_model_without_dynamic_parts_is_refused():
    with pytest.raises(ValueError, match="has no dynamic part.*type='mmsparse.DynamicConvNeXt'"):
        SparsityHook().attach(torch.nn.Linear(1, 1))


def sample(**fields):
    from mmengine.structures import BaseDataElement

    return BaseDataElement(**fields)


def everywhere(high, wide):
    return Selection(Geometry((high, wide)), torch.ones(1, high * wide, dtype=torch.bool))


def test_score_targets_are_touched_cells_or_edges():
    from mmengine.structures import InstanceData, PixelData

    boxes = InstanceData(bboxes=torch.tensor([[9.0, 0.0, 21.0, 4.0], [39.0, 39.0, 40.0, 40.0]]))
    empty = InstanceData(bboxes=torch.zeros(0, 4))
    targets = score_targets([sample(gt_instances=boxes), sample(gt_instances=empty)], everywhere(4, 4), (40, 40))
    assert targets[0].view(4, 4).tolist() == [[1, 1, 1, 0], [0] * 4, [0] * 4, [0, 0, 0, 1]]
    assert not targets[1].any()
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :, 5:] = 3
    edges = score_targets([sample(gt_sem_seg=PixelData(data=labels))], everywhere(2, 4), (8, 8))
    assert edges.view(2, 4).tolist() == [[0, 0, 1, 0]] * 2
    labels[:, 4:] = 7
    labels[:, 4:, 3] = 2
    edges = score_targets([sample(gt_sem_seg=PixelData(data=labels))], everywhere(2, 4), (8, 8), ignored=7)
    assert edges.view(2, 4).tolist() == [[0, 0, 1, 0], [0] * 4]
    with pytest.raises(ValueError, match="score_weight"):
        score_targets([sample(other=1)], everywhere(2, 2), (8, 8))


def test_supervision_teaches_scorers_alone():
    """The left half holds the object; after some steps the scores say so. Features get no gradient from it."""
    from mmengine.structures import InstanceData

    model = toy()
    SparsityHook(loss_weight=0.0, score_weight=1.0).attach(model)
    x = torch.randn(2, 3, 64, 128)
    x[..., :64] += 2
    samples = [sample(gt_instances=InstanceData(bboxes=torch.tensor([[0.0, 0.0, 64.0, 64.0]])))] * 2
    optimizer = torch.optim.Adam(model.backbone.router.decisions.parameters(), lr=2e-3)
    for _ in range(60):
        losses = model(x, samples, mode="loss")
        optimizer.zero_grad()
        losses["loss_score"].backward()
        optimizer.step()
    assert model.backbone.stages[0][0].gamma.grad is None
    assert losses["loss_score"] < 0.35  # it starts at log 2


def test_scores_that_regress_the_gain_have_no_ratio_loss():
    model = Toy(dict(keep_ratio=0.7, learn="gain")).train()
    SparsityHook().attach(model)
    losses = model(torch.randn(2, 3, 64, 64), mode="loss")
    assert losses["keep_ratio/s2b1"].item() == 11 / 16  # so near to 0.7 as 16 locations allow, but not 0.7
    assert losses["loss_sparsity"].item() == 0.0
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(p.grad.any() for d in find_deciders(model) for p in d.parameters())
