# From the trained dense detector to one of half of its arithmetic; its batch norms keep their statistics. Everything
# kept learns the labels in the same step and teaches the routed pass.
_base_ = "./atss_r34-w32_fpn_boards.py"

load_from = "work_dirs/atss_r34-w32_fpn_boards/iter_2000.pth"
model = dict(
    backbone=dict(type="mmsparse.DynamicResNet", norm_eval=True, sparsity=dict(keep_ratio=0.25)),
    bbox_head=dict(type="mmsparse.DynamicATSSHead", sparsity=dict(keep_ratio=0.15, coarse=True)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook", score_weight=1.0), dict(type="mmsparse.InPlaceHook")]
optim_wrapper = dict(  # at the full rate: the dense network had not learned all that it can
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(pretrained=("backbone", "neck", "bbox_head"), backbone_mult=1.0),
)
