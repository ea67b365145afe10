"""Convert dense weights of ConvNeXt (v1, v2), Swin or DeiT, from the original releases or from timm.

The layout is read from the names. The result has the layout of mmpretrain, mmdet and mmseg, which our networks share;
backbones of mmseg's own VisionTransformer are another input.
"""

import argparse

from mmsparse.cli.checkpoint_files import add_files, convert_file
from mmsparse.models.convert import convert_dense


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)


def run(args: argparse.Namespace) -> None:
    convert_file(args, convert_dense)
