# The schedule of the other families, with the layer-wise learning rates and the weight decay of ViTDet
_base_ = "./schedule_3x.py"

optim_wrapper = dict(
    constructor="mmpretrain.LearningRateDecayOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=0.7),
    optimizer=dict(weight_decay=0.1),
)
