"""What of a network can be turned down: dials, and the modules that hold them.

A dial's own budget is a default. A call may bring another, in a variable that threads do not share.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mmengine.model import BaseModule

from mmsparse.ops import OfThread

from .budget import check_keep_ratio, given_ratios
from .new_parts import NewPart


class Dial(BaseModule):
    """One budget of a network, and the module that keeps to it.

    Args:
        name: How logs call it.

    Attributes:
        keep_ratio: Its budget, of the call if there is one (``budgets``); 1.0 is the dense network.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._keep_ratio = 1.0
        self._part: tuple[Tunable, ...] = ()  # that holds it; no child

    @property
    def keep_ratio(self) -> float:
        given = _GIVEN.value
        ratio = None if given is None else given.of(self)
        return self._keep_ratio if ratio is None else ratio

    @keep_ratio.setter
    def keep_ratio(self, keep_ratio: float) -> None:
        self._keep_ratio = keep_ratio


class Tunable(NewPart, BaseModule):
    """A new part of a network that has dials."""

    @property
    def dials(self) -> Sequence[Dial]:
        raise NotImplementedError

    @property
    def keep_ratio(self) -> tuple[float, ...]:
        """The budget of each dial."""
        return tuple(dial.keep_ratio for dial in self.dials)

    def set_keep_ratio(self, keep_ratio: float | Sequence[float]) -> None:
        """One number, expanded by this part's rule, or one per dial. Constructors end with it."""
        for dial, ratio in self.ratios(keep_ratio).items():
            dial.keep_ratio = ratio
            dial._part = (self,)

    def ratios(self, keep_ratio: float | Sequence[float]) -> dict[Dial, float]:
        """What a budget means for each dial."""
        return dict(zip(self.dials, self.expand(keep_ratio), strict=True))

    def expand(self, keep_ratio: float | Sequence[float]) -> Sequence[float]:
        """The rule: one number is that of each dial."""
        given = given_ratios(keep_ratio, [dial.name for dial in self.dials])
        return [check_keep_ratio(keep_ratio)] * len(self.dials) if given is None else given


@dataclass(frozen=True, eq=False)
class _Given:
    """Budgets of a call: of some dials, or one number for all parts."""

    ratios: Mapping[Dial, float]
    number: float | None
    outer: "_Given | None"

    def of(self, dial: Dial) -> float | None:
        if dial in self.ratios:
            return self.ratios[dial]
        if self.number is not None and dial._part:
            return dial._part[0].ratios(self.number)[dial]
        return None if self.outer is None else self.outer.of(dial)


_GIVEN: OfThread[_Given | None] = OfThread(None)


@contextmanager
def budgets(ratios: Mapping[Dial, float], number: float | None = None) -> Iterator[None]:
    """Other budgets inside a with-block, in this thread: of some dials, and one number for the parts of all others."""
    with _GIVEN.set(_Given(ratios, number, _GIVEN.value)):
        yield
