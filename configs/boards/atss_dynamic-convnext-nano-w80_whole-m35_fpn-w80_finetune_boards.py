# The same from the detector with 80 channels.
_base_ = "./atss_dynamic-convnext-nano-w128_whole-m35_fpn-w128_finetune_boards.py"

load_from = "work_dirs/atss_convnext-nano-w80_fpn-w80_boards/iter_2000.pth"
model = dict(
    backbone=dict(arch=dict(channels=[40, 80, 160])),
    neck=dict(in_channels=[80, 160], out_channels=80),
    bbox_head=dict(in_channels=80, feat_channels=80),
)
