# From the trained dense detector to one of two fifths of its arithmetic. Everything kept learns the labels in the same
# step and teaches the routed pass.
_base_ = "./atss_convnext-pico-w128_boards.py"

load_from = "work_dirs/atss_convnext-pico-w128_boards/iter_2000.pth"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicConvNeXt",
        sparsity=dict(keep_ratio=[0.25, 0.2], places=[(1, 0), (2, 0)], scorer=dict(type="PeakScorer", deep=2)),
    ),
    bbox_head=dict(type="mmsparse.DynamicATSSHead", sparsity=dict(keep_ratio=0.22, coarse=True)),
)
custom_hooks = [
    dict(type="mmsparse.SparsityHook", score_weight=1.0, anneal=(0.0, 0.3)),
    dict(type="mmsparse.InPlaceHook"),
]
optim_wrapper = dict(  # at the full rate: the dense network had not learned all that it can
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(pretrained=("backbone", "neck", "bbox_head"), backbone_mult=1.0),
)
