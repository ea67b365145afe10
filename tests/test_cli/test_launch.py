"""What every tool starts with: where a training begins, and which checkpoints fit a model."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmsparse.checkpoints import load_weights
from mmsparse.cli.building import build_model
from mmsparse.cli.launch import choose_start
from mmsparse.cli.preflight import check_backbone, check_start
from mmsparse.configs import read_config, without_pretrained
from mmsparse.models import DynamicConvNeXt, DynamicSwin


@pytest.mark.parametrize(
    "resume, load_from, there, expected",
    [
        (None, None, False, (False, "config.pth")),
        (None, "dense.pth", False, (False, "dense.pth")),
        ("auto", "dense.pth", False, (False, "dense.pth")),  # the first start of a training that may be stopped
        ("auto", "dense.pth", True, (True, "{there}")),
        ("auto", None, True, (True, "{there}")),
        ("stopped.pth", None, True, (True, "stopped.pth")),
    ],
)
def test_where_a_training_begins(resume, load_from, there, expected, tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), load_from="config.pth"))
    saved = tmp_path / "iter_2.pth"
    if there:
        torch.save({}, saved)
    choose_start(cfg, resume, load_from)
    assert (cfg.resume, cfg.load_from) == (expected[0], expected[1].format(there=saved))


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def swin():
    return Model(
        DynamicSwin(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), sparsity=dict(places=[(2, 1)]))
    )


def convnext(*places):
    sparsity = dict(places=list(places), keep_ratio=[0.5] * len(places))
    return Model(DynamicConvNeXt(arch="atto", gap_before_final_norm=False, sparsity=sparsity))


def saved(state, tmp_path):
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


def test_no_initial_weights_are_fetched():
    kaiming = dict(type="Kaiming", layer="Conv2d")
    pretrained, bare = dict(type="Pretrained", checkpoint="x.pth"), dict(checkpoint="https://host/x.pth")
    cfg = dict(pretrained="x.pth", backbone=dict(init_cfg=bare), heads=[dict(init_cfg=pretrained, loss=kaiming)])
    cfg["neck"] = dict(init_cfg=kaiming)
    without_pretrained(cfg)
    heads = [dict(init_cfg=None, loss=kaiming)]
    assert cfg == dict(pretrained=None, backbone=dict(init_cfg=None), heads=heads, neck=dict(init_cfg=kaiming))


def test_a_swin_checkpoint_may_leave_out_what_is_computed(tmp_path):
    trained = swin().state_dict()
    state = {key: torch.rand_like(value) for key, value in trained.items() if value.is_floating_point()}
    assert trained.keys() - state.keys()
    model = swin()
    load_weights(model, saved(state, tmp_path))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_a_checkpoint_of_other_places_is_refused_and_a_dense_one_not(tmp_path):
    trained = convnext((2, 1), (2, 2)).state_dict()
    with pytest.raises(RuntimeError, match=r"does not fit this model: \d+ keys are missing .*2_0"):
        load_weights(convnext((2, 0), (2, 2)), saved(trained, tmp_path))
    dense = {key: value for key, value in trained.items() if "router" not in key}
    load_weights(convnext((2, 0), (2, 2)), saved(dense, tmp_path))


def test_training_begins_with_what_fits_the_backbone(tmp_path):
    model = convnext((2, 0), (2, 2))
    state = {key: value for key, value in model.state_dict().items() if "router" not in key}
    check_backbone(model, saved({**state, "head.weight": torch.ones(3)}, tmp_path))  # the dense twin's, another head
    check_backbone(model, saved({f"module.{key}": value for key, value in state.items()}, tmp_path))
    count = len(state)
    for others, message in (
        ({key.removeprefix("backbone."): value for key, value in state.items()}, f"{count} are missing .*, 0 have"),
        ({key: torch.ones(2, 2, 2) for key in state}, f"0 are missing .*, {count} have other shapes"),
        (swin().state_dict(), f"{count - 2} are missing .*, 2 have other shapes"),  # norm3.*
        ({"conv.weight": torch.zeros(1)}, f"{count} are missing"),
    ):
        with pytest.raises(RuntimeError, match=rf"`load_from`: .* does not fit this model: of the {count} .*{message}"):
            check_backbone(model, saved(others, tmp_path))


def test_load_from_of_the_config_and_resume_are_checked(tmp_path):
    other = tmp_path / "other.pth"
    torch.save(dict(state_dict={"conv.weight": torch.zeros(1)}, meta={}, message_hub={}), other)
    model = convnext((2, 0), (2, 2))
    check_start(model, Config(dict(load_from=None, resume=False)))
    for resume, name in ((False, "load_from"), (True, "resume")):
        with pytest.raises(RuntimeError, match=f"Argument `{name}`: .* does not fit this model"):
            check_start(model, Config(dict(load_from=str(other), resume=resume)))


@pytest.mark.parametrize("change", ["groups", "sizes"])
def test_resuming_with_other_parameter_groups_is_refused(change, tmp_path):
    model = convnext((2, 0), (2, 2))
    wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05), paramwise_cfg=dict(norm_decay_mult=0.0))
    cfg = Config(dict(optim_wrapper=wrapper, resume=True, load_from=str(tmp_path / "iter_2.pth")))
    saved = dict(meta=dict(iter=2, epoch=0), message_hub={}, state_dict=model.state_dict())
    saved["optimizer"] = build_optim_wrapper(model, cfg.optim_wrapper).state_dict()
    torch.save(saved, tmp_path / "iter_2.pth")
    check_start(model, cfg)
    if change == "groups":
        cfg.optim_wrapper.pop("paramwise_cfg")
    else:
        model.backbone.router.requires_grad_(False)
    with pytest.raises(ValueError, match=r"`resume`: .* other parameter groups: \d+ of \d+ .*with --load-from$"):
        check_start(model, cfg)


def test_an_untrained_detector_believes_in_nothing(capsys):
    """Else its post-processing sorts every anchor, which takes longer than the network."""
    cfg = read_config("configs/demo/atss_dynamic-convnext-mini_k50_scenes.py")
    with torch.no_grad():
        scores, *_ = build_model(cfg)(torch.randn(1, 3, 160, 160))
    assert max(level.sigmoid().max().item() for level in scores) < 0.05
    assert capsys.readouterr().out == ""
