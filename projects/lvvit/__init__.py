from .head import TokenLabelHead
from .lvvit import LVViT

__all__ = ["LVViT", "TokenLabelHead"]
