"""Small models that are taught, and what a test needs to know what they should learn."""

import copy

import torch
from mmengine.model import BaseModel
from mmpretrain.models import ImageClassifier, LinearClsHead
from mmpretrain.structures import DataSample
from torch import nn

from mmsparse.apis import find_deciders
from mmsparse.models import DynamicConvNeXt, DynamicSwin, DynamicViT

MICRO = dict(depths=[1, 1, 4, 1], channels=[8, 16, 32, 64])
CONVNEXT = dict(arch=MICRO, gap_before_final_norm=False, layer_scale_init_value=1.0, out_indices=[0, 1, 2, 3])
SWIN = dict(embed_dims=16, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.0)


class Toy(BaseModel):
    """The smallest model that trains the mm way."""

    def __init__(self, backbone, neck=None):
        super().__init__()
        self.backbone = backbone
        if neck is not None:
            self.neck = neck

    def forward(self, inputs, data_samples=None, mode="tensor"):
        maps = self.backbone(inputs)
        if hasattr(self, "neck"):
            maps = self.neck(maps)
        return dict(loss_toy=maps[-1].square().mean()) if mode == "loss" else maps


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, 4, 1) for c in MICRO["channels"])

    def forward(self, maps):
        return tuple(conv(x) for conv, x in zip(self.convs, maps, strict=True))


def toy(neck=None, **kwargs):
    return Toy(DynamicConvNeXt(**{**CONVNEXT, "sparsity": dict(keep_ratio=0.7), **kwargs}), neck).train()


def swin_toy(**sparsity):
    return Toy(DynamicSwin(**SWIN, sparsity=dict(keep_ratio=0.7, **sparsity))).train()


def classifier(backbone, head, neck=None):
    model = ImageClassifier(backbone=backbone, neck=neck, head=head, data_preprocessor=dict(mean=[0] * 3, std=[1] * 3))
    return model.train()


def cnn_classifier(**kwargs):
    backbone = DynamicConvNeXt(MICRO, layer_scale_init_value=1.0, sparsity=dict(keep_ratio=0.7), **kwargs)
    return classifier(backbone, LinearClsHead(5, 64))


def vit(cumulative, **kwargs):
    arch = dict(embed_dims=32, num_layers=8, num_heads=2, feedforward_channels=64)
    sparsity = dict(keep_ratio=0.6, cumulative=cumulative, selector=dict(type="GumbelSelector"))
    return DynamicViT(arch, img_size=64, patch_size=16, sparsity=sparsity, **kwargs)


def shaken(model):
    """A student that has moved away from its teacher."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def labels(count):
    return [DataSample().set_gt_label(i) for i in range(count)]


def frozen_copy(model):
    twin = copy.deepcopy(model)
    for module in twin.modules():
        module.training = False
    for decision in find_deciders(twin):
        decision.keep_ratio = 1.0
    return twin
