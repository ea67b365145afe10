"""What looks at models from outside while they train, and what every tool starts with."""

from mmsparse.env import require

require("mmengine", "mmcv")

from .cpu_amp import CpuAmpOptimWrapper  # noqa: E402
from .elastic_hook import ElasticHook  # noqa: E402
from .in_place_hook import InPlaceHook  # noqa: E402
from .loss_hook import Collecting, LossHook  # noqa: E402
from .optim_constructor import SparsityOptimWrapperConstructor  # noqa: E402
from .seed_hook import SeedHook  # noqa: E402
from .sparsity_hook import SparsityHook  # noqa: E402
from .teacher_hook import TeacherHook  # noqa: E402
from .thresholds import AveragedThresholdsHook, share_thresholds  # noqa: E402
from .whole_checkpoints import WholeCheckpointHook, latest_checkpoint  # noqa: E402

__all__ = [
    "AveragedThresholdsHook",
    "Collecting",
    "CpuAmpOptimWrapper",
    "ElasticHook",
    "InPlaceHook",
    "LossHook",
    "SeedHook",
    "SparsityHook",
    "SparsityOptimWrapperConstructor",
    "TeacherHook",
    "WholeCheckpointHook",
    "latest_checkpoint",
    "share_thresholds",
]
