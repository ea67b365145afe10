"""Names of the stock classes that are routed, by where they stand; ours are called ``DynamicNAME``.

Here, so that who rewrites configs needs no library of models.
"""

# Heads that need nothing but a mixin in front of them.
# Of mmdet: towers that are applied to every level, and towers of each level's own
TOWERS = ("ATSSHead", "CenterNetUpdateHead", "FCOSHead", "FSAFHead", "FoveaHead", "FreeAnchorRetinaHead")
TOWERS += ("GFLHead", "LADHead", "LDHead", "PAAHead", "PISARetinaHead", "SABLRetinaHead")
DEFORMABLE = ("RepPointsHead", "VFNetHead")  # towers, too; deformable convolutions follow
LEVELS = ("RTMDetSepBNHead", "RetinaSepBNHead")
# of mmseg: on one map, whatever else they do with it
ON_ONE_MAP = ("ANNHead", "APCHead", "ASPPHead", "CCHead", "DAHead", "DNLHead", "DepthwiseSeparableASPPHead")
ON_ONE_MAP += ("EMAHead", "EncHead", "FCNHead", "GCHead", "ISAHead", "NLHead", "OCRHead", "PSAHead", "PSPHead")

OF_REGIONS = ("ConvFCBBoxHead", "FCNMaskHead", "GridHead", "HTCMaskHead", "SCNetMaskHead", "Shared4Conv1FCBBoxHead")

_OTHERS = (
    "GARPNHead",
    "GARetinaHead",
    "RPNHead",
    "RTMDetInsSepBNHead",
    "SOLOHead",
    "DecoupledSOLOHead",
    "DecoupledSOLOLightHead",
    "RetinaHead",
    "TOODHead",
    "YOLACTHead",
    "YOLOXHead",
)

HEADS = dict(
    mmdet=(*TOWERS, *DEFORMABLE, *LEVELS, *OF_REGIONS, *_OTHERS), mmseg=(*ON_ONE_MAP, "DMHead", "FPNHead", "UPerHead")
)
NECKS = dict(
    mmdet=("FPN", "PAFPN", "HRFPN", "ChannelMapper", "CSPNeXtPAFPN", "YOLOXPAFPN"),
    mmseg=("MultiLevelNeck",),
)

# Of mmdet: detectors whose deformable encoder is routed, and what is one beside a mask transformer
DETECTORS = ("DDQDETR", "DINO", "DeformableDETR")
PIXEL_DECODERS = ("MSDeformAttnPixelDecoder",)
