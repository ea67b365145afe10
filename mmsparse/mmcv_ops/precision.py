"""Which precision the stand-ins compute in."""

import torch
from torch import Tensor


def wide(*tensors: Tensor) -> list[Tensor]:
    """All in the precision of the first, in single precision if that is half: torchvision has no kernels for all."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return [tensor.to(dtype) for tensor in tensors]
