# From the trained dense detector to one of 65 % of its arithmetic; its batch norms keep their statistics. Everything
# kept learns the labels in the same step and teaches the routed pass.
_base_ = "./atss_r34-w32_fpn_scenes.py"

load_from = "work_dirs/atss_r34-w32_fpn_scenes/iter_3000.pth"
model = dict(
    backbone=dict(type="mmsparse.DynamicResNet", norm_eval=True, sparsity=dict(keep_ratio=0.4, tile=2)),
    neck=dict(type="mmsparse.DynamicFPN", sparsity=dict(keep_ratio=0.5, tile=1)),
    bbox_head=dict(type="mmsparse.DynamicATSSHead", sparsity=dict(keep_ratio=0.22, tile=1)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook"), dict(type="mmsparse.InPlaceHook")]
