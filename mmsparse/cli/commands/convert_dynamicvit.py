"""Convert a released DynamicViT checkpoint (ConvNeXt T/S/B, Swin T/S/B, DeiT-S/B).

The family and the size are read from the weights. The result loads into a classifier of mmpretrain with one of our
backbones, or as a backbone's initial weights: init_cfg=dict(type="Pretrained", checkpoint=..., prefix="backbone.").
"""

import argparse

from mmsparse.cli.checkpoint_files import add_files, convert_file
from mmsparse.models.convert import convert_dynamicvit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)


def run(args: argparse.Namespace) -> None:
    convert_file(args, convert_dynamicvit)
