"""Registered networks whose blocks are routed."""

from mmsparse.env import require

require("mmengine", "mmcv", "mmpretrain")

from .backbones import DynamicConvNeXt, DynamicSwin, DynamicViT  # noqa: E402, F401
from .heads import *  # noqa: E402, F403
from .necks import *  # noqa: E402, F403
