"""The neck of mmseg for plain backbones, routed."""

from mmseg.models.necks import MultiLevelNeck

from mmsparse.models.convs import RoutedNeck, routed

DynamicMultiLevelNeck = routed(RoutedNeck, MultiLevelNeck, "3x3 convolutions", __name__)
