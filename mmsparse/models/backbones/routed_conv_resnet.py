"""ResNets whose 3x3 convolutions are routed one by one."""

from collections.abc import Sequence

from mmsparse.models.convs import RoutedConvs, routable


class RoutedConvResNet(RoutedConvs):
    """A stage that is trained shares a decision.

    For blocks of two 3x3 convolutions, whose tiles overlap by more than is saved, and for norms over whole maps.
    """

    def routed_convs(self, levels: int) -> Sequence[str]:
        trained = self.res_layers[max(self.frozen_stages, 0) :]
        return routable(self, *(f"{name}." for name in trained)) if trained else []

    def decided_with(self, name: str) -> str:
        return name.partition(".")[0]
