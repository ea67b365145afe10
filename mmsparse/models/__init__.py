"""Registered networks whose blocks are routed."""

from mmsparse.env import require

require("mmengine", "mmcv", "mmpretrain")

from .backbones import *  # noqa: E402, F403
from .encoders import *  # noqa: E402, F403
from .heads import *  # noqa: E402, F403
from .necks import *  # noqa: E402, F403
