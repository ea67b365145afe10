"""Convert dense weights: releases, timm and the Hugging Face hub into the layout of OpenMMLab, and out again with --to.

Taken are ConvNeXt (v1, v2, DINOv3's), Swin, DeiT, ViT and DINOv2, and the hub's UPerNets with ConvNeXt or Swin. The
layout is read from the names. The result has the layout of mmpretrain, mmdet and mmseg, which our networks share;
backbones of mmseg's own VisionTransformer are another input.
"""

import argparse

from mmsparse.cli.checkpoint_files import add_files, convert_file, release_file
from mmsparse.models.convert import RELEASES, convert_dense


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)
    parser.add_argument(
        "--to",
        choices=RELEASES,
        help="the other way: from the OpenMMLab layout to the names of this release (DST may end in .safetensors)",
    )


def run(args: argparse.Namespace) -> None:
    if args.to is None:
        convert_file(args, convert_dense)
    else:
        release_file(args, args.to)
