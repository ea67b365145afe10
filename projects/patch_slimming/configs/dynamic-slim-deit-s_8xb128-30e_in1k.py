_base_ = "./slim-deit-s_8xb128-30e_in1k.py"
model = dict(backbone=dict(sparsity=dict(scorer=dict(type="MLPScorer"))))
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SignificanceHook"),
]
optim_wrapper = dict(  # the scorers are new: a hundred times the rate of what is trained already
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(new_mult=100.0),
)
