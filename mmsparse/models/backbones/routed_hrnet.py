"""HRNets whose blocks are routed."""

import re
from collections.abc import Sequence

from mmsparse.models.convs import RoutedConvs, routable


class RoutedHRNet(RoutedConvs):
    """The blocks of a branch of a module share a decision; fusions stay dense, and so does what changes the size."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return [name for name in routable(self, "layer1.", "transition", "stage") if "fuse_layers" not in name]

    def decided_with(self, name: str) -> str:
        """'stage3.1.branches.0.2.conv1' is of 'stage3.1.branches.0', and 'transition1.0.0' of 'transition1.0'."""
        return re.match(r"layer1|(transition|stage)\d+\.\d+(\.branches\.\d+)?", name)[0]
