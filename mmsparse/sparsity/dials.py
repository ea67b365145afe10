"""What of a network can be turned down: dials, and the modules that hold them."""

from collections.abc import Sequence

from mmengine.model import BaseModule


class Dial(BaseModule):
    """One budget of a network, and the module that keeps to it.

    Args:
        name: How logs call it.

    Attributes:
        keep_ratio: Its budget; 1.0 is the dense network.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.keep_ratio = 1.0


class Tunable(BaseModule):
    """What a part of a network needs besides its dense parameters: its own are new, and it has dials."""

    @property
    def dials(self) -> Sequence[Dial]:
        raise NotImplementedError

    @property
    def keep_ratio(self) -> tuple[float, ...]:
        """The budget of each dial."""
        return tuple(dial.keep_ratio for dial in self.dials)

    def set_keep_ratio(self, keep_ratio: float | Sequence[float]) -> None:
        """One number, expanded by this part's rule, or one per dial."""
        for dial, ratio in zip(self.dials, self.expand(keep_ratio), strict=True):
            dial.keep_ratio = ratio

    def expand(self, keep_ratio: float | Sequence[float]) -> Sequence[float]:
        raise NotImplementedError
