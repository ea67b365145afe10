"""Convert dense weights of ConvNeXt (v1, v2), Swin or DeiT, from the original releases or from timm.

The layout is read from the names. The result has the layout of mmpretrain, mmdet and mmseg, which our networks share;
backbones of mmseg's own VisionTransformer are another input.
"""

from mmsparse.cli.mistakes import say_mistakes
from mmsparse.models.convert import convert_dense
from mmsparse.models.convert.files import convert_command

if __name__ == "__main__":
    with say_mistakes():
        convert_command(__doc__, convert_dense)
