"""HRNets whose blocks are routed."""

import re
from collections.abc import Sequence

from mmsparse.models.convs import RoutedConvs, routable


class RoutedHRNet(RoutedConvs):
    """The blocks of a branch of a module share a decision; transitions and fusions stay dense."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return [name for name in routable(self, "layer1.", "stage") if "fuse_layers" not in name]

    def decided_with(self, name: str) -> str:
        """'stage3.1.branches.0.2.conv1' is of 'stage3.1.branches.0', and 'layer1.0.conv2' of 'layer1'."""
        return re.match(r"layer1|stage\d+\.\d+\.branches\.\d+", name)[0]
