"""What the dense network lacks, and says so itself: dense checkpoints may lack it, rates and freezes know it."""

import pytest
import torch
from mmengine.model import BaseModel
from mmpretrain.models import VisionTransformer
from optimized import LR, build, swin
from torch import nn

from mmsparse.checkpoints import check_weights, load_weights
from mmsparse.cli.preflight import check_backbone
from mmsparse.models.backbones import dynamic_swin
from projects.adavit import AdaViT
from projects.sparsifiner import SparsifinerViT
from projects.tpc import TPCViT

ARCH = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)
MICRO = dict(arch=ARCH, img_size=64, out_type="featmap")
SPARSITY = dict(places=[1, 2, 3], keep_ratio=[0.5, 0.5, 0.5], scorer=dict(type="PropagationScorer"), share_scorer=True)


class Model(BaseModel):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(48, 2, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return self.head(self.backbone(inputs)[-1])


def tpc():
    return Model(TPCViT(**MICRO, sparsity=SPARSITY))


def sparsifiner(**more):
    return Model(SparsifinerViT(**MICRO, connectivity=dict(keep_ratio=0.5, coefficients=2), **more))


def adavit():
    return Model(AdaViT(**MICRO, policy={}))


@pytest.mark.parametrize("routed", [tpc, sparsifiner, adavit])
def test_a_dense_checkpoint_is_loaded(routed, tmp_path):
    dense, model = Model(VisionTransformer(**MICRO)), routed()
    torch.save(dict(state_dict=dense.state_dict()), tmp_path / "dense.pth")
    load_weights(model, str(tmp_path / "dense.pth"))
    for key, value in dense.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize(
    "routed, part", [(tpc, "stabiliser"), (sparsifiner, "predictor.predictors.2"), (adavit, "policy.heads.2")]
)
def test_a_trained_one_may_lack_nothing(routed, part):
    model = routed()
    check_weights(model, model.state_dict(), "own.pth")
    lacking = {key: value for key, value in model.state_dict().items() if part not in key}
    with pytest.raises(RuntimeError, match=f"{len(model.state_dict()) - len(lacking)} keys are missing .*{part}"):
        check_weights(model, lacking, "other.pth")
    dense = {
        key: value
        for key, value in lacking.items()
        if not key.startswith(("backbone.router", "backbone.pred", "backbone.policy"))
    }
    check_weights(model, dense, "dense.pth")


def test_a_file_of_new_parts_alone_starts_no_training(tmp_path):
    model = sparsifiner()
    count = sum(key.startswith("backbone.") and "predictor" not in key for key in model.state_dict())
    state = {key: value for key, value in model.state_dict().items() if "predictor" in key}
    torch.save(dict(state_dict=state), tmp_path / "new.pth")
    with pytest.raises(RuntimeError, match=f"of the {count} keys of its backbone {count} are missing"):
        check_backbone(model, str(tmp_path / "new.pth"))


def test_the_stabiliser_learns_as_what_is_new():
    """A custom key holds for it if it names it; 'bias' and 'backbone' do not."""
    keys = {"bias": dict(lr_mult=7.0), "backbone": dict(lr_mult=5.0)}
    for more, factor in (({}, 2.0), (dict(stabiliser=dict(lr_mult=3.0)), 6.0)):
        custom = {"custom_keys": {**keys, **more}}
        groups = build(tpc(), backbone_mult=0.1, new_mult=2.0, freeze_epochs=1, **custom).optimizer.param_groups
        of = {name: group for group in groups for name in group["param_names"]}
        for name in ("backbone.stabiliser.weight", "backbone.stabiliser.bias"):
            assert of[name]["lr"] == pytest.approx(LR * factor), name
            assert "rests_at_first" not in of[name]
        assert (
            of["backbone.ln1.weight"]["lr"] == pytest.approx(LR * 0.5) and of["backbone.ln1.weight"]["rests_at_first"]
        )
        assert {group["lr"] for name, group in of.items() if ".router." in name} == {LR * 2.0}


def test_a_trained_stabiliser_stays_when_it_is_loaded(tmp_path):
    """It begins at zero, but not anew where a checkpoint brings it."""
    trained = TPCViT(**MICRO, sparsity=SPARSITY)
    nn.init.normal_(trained.stabiliser.weight)
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / "trained.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "trained.pth"))
    model = TPCViT(**MICRO, sparsity=SPARSITY, init_cfg=init)
    assert model.stabiliser.weight.abs().max() == 0
    model.init_weights()
    assert torch.equal(model.stabiliser.weight, trained.stabiliser.weight)


def test_a_routed_swin_names_only_what_is_really_missing(tmp_path, monkeypatch):
    dense = {key: value for key, value in swin().backbone.state_dict().items() if "norm3" not in key}
    torch.save(dense, tmp_path / "dense.pth")
    model, said = swin(sparsity={}).backbone, []
    model.init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "dense.pth"))
    monkeypatch.setattr(dynamic_swin, "print_log", lambda text, **_: said.append(text))
    model.init_weights()
    assert said == [f"DynamicSwin: loaded {tmp_path}/dense.pth; missing ['norm3.weight', 'norm3.bias'], unexpected []"]
