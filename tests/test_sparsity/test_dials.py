"""Budgets that no decision holds: twins, ratios and rates of learning are theirs, too."""

import pytest
import torch
from mmengine.model import ModuleDict
from torch import nn

from mmsparse.apis import dense_twin, find_deciders, find_dials, get_keep_ratio, set_keep_ratio
from mmsparse.engine import SparsityOptimWrapperConstructor
from mmsparse.models import DynamicViT
from mmsparse.sparsity import Dial, Tunable, check_keep_ratio


class Dimmer(Dial):
    def __init__(self, name):
        super().__init__(name)
        self.weight = nn.Parameter(torch.ones(2, 2))


class Dimmers(Tunable):
    def __init__(self):
        super().__init__()
        self.lights = ModuleDict({name: Dimmer(name) for name in ("low", "high")})

    @property
    def dials(self):
        return list(self.lights.values())

    def expand(self, keep_ratio):
        given = keep_ratio if isinstance(keep_ratio, tuple) else (keep_ratio,) * 2
        return [check_keep_ratio(ratio) for ratio in given]


@pytest.fixture
def model():
    arch = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)
    model = nn.Module()
    model.backbone = DynamicViT(arch=arch, img_size=96, sparsity=dict(places=[1], keep_ratio=[0.7]))
    model.backbone.predictor = Dimmers()
    return model


def test_all_budgets_are_found_set_and_put_back(model):
    assert [type(dial).__name__ for dial in find_dials(model)] == ["Decider", "Dimmer", "Dimmer"]
    assert len(find_deciders(model)) == 1
    set_keep_ratio(model, 0.5)
    assert get_keep_ratio(model) == {"b1": 0.5, "low": 0.5, "high": 0.5}
    set_keep_ratio(model, {"backbone": 0.6, "backbone.predictor": (0.1, 0.2)})
    assert get_keep_ratio(model) == {"b1": 0.6, "low": 0.1, "high": 0.2}
    with dense_twin(model):
        assert set(get_keep_ratio(model).values()) == {1.0}
    assert get_keep_ratio(model) == {"b1": 0.6, "low": 0.1, "high": 0.2}


def rates(model, **custom_keys):
    wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1.0))
    paramwise = dict(new_mult=3.0, backbone_mult=0.1, custom_keys=custom_keys)
    groups = SparsityOptimWrapperConstructor(wrapper, paramwise)(model).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    known = [(parameter, group) for group in groups for parameter in group["params"] if parameter in names]
    return {names[parameter]: group["lr"] for parameter, group in known}


def test_their_parameters_are_new_ones(model):
    first = rates(model, high=dict(lr_mult=9.0))  # a word that a router could have in it by chance
    lights = [f"backbone.predictor.lights.{name}.weight" for name in ("low", "high")]
    assert {rate for name, rate in first.items() if "router" in name} == {3.0} == {first[name] for name in lights}
    assert first["backbone.cls_token"] == pytest.approx(0.1)
    second = rates(model, **{"predictor.lights.high": dict(lr_mult=2.0)})
    assert [second[name] for name in lights] == [3.0, 6.0]


@pytest.mark.parametrize("wrong", [7.0, (0.1, 0.2, 0.3), (0.1, "all")])
def test_a_wrong_budget_of_one_part_changes_none(model, wrong):
    before = get_keep_ratio(model)
    with pytest.raises((ValueError, TypeError)):
        set_keep_ratio(model, {"backbone": 0.6, "backbone.predictor": wrong})
    assert get_keep_ratio(model) == before
