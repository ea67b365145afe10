"""Small networks of the three families, and their optimizers."""

from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmsparse.models import DynamicConvNeXt, DynamicSwin, DynamicViT

LR, WD = 1e-3, 0.05

SWIN = dict(embed_dims=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.0, use_abs_pos_embed=True)


class Model(BaseModel):
    """A backbone and a head, trained the mm way."""

    def __init__(self, backbone, width):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = self.head(self.backbone(inputs)[-1])
        return dict(loss_toy=x.square().mean()) if mode == "loss" else x

    def get_layer_depth(self, name):
        return self.backbone.get_layer_depth(name, "backbone.")


def convnext(arch="atto", sparsity=None):
    kwargs = dict(out_indices=[3], gap_before_final_norm=False, layer_scale_init_value=1.0, drop_path_rate=0.0)
    backbone = DynamicConvNeXt(arch, **kwargs, sparsity=sparsity)
    return Model(backbone, backbone.channels[-1])


def swin(sparsity=None):
    return Model(DynamicSwin(**SWIN, out_indices=(3,), sparsity=sparsity), 256)


def vit(sparsity=None):
    arch = dict(embed_dims=32, num_layers=8, num_heads=2, feedforward_channels=64)
    return Model(DynamicViT(arch, img_size=64, patch_size=16, out_type="featmap", sparsity=sparsity), 32)


def build(model, **paramwise):
    cfg = dict(
        constructor="mmsparse.SparsityOptimWrapperConstructor",
        optimizer=dict(type="AdamW", lr=LR, weight_decay=WD),
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, cfg)
