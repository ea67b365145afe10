"""Convert a released DynamicViT checkpoint (ConvNeXt T/S/B, Swin T/S/B, DeiT-S/B).

The family and the size are read from the weights. The result loads into a classifier of mmpretrain with one of our
backbones, or as a backbone's initial weights: init_cfg=dict(type="Pretrained", checkpoint=..., prefix="backbone.").
"""

from mmsparse.cli.mistakes import say_mistakes
from mmsparse.models.convert import convert_dynamicvit
from mmsparse.models.convert.files import convert_command

if __name__ == "__main__":
    with say_mistakes():
        convert_command(__doc__, convert_dynamicvit)
