# Segmenter's recipe: 160k iterations of SGD at batch 8
_base_ = "./schedule_160k.py"

param_scheduler = [dict(type="PolyLR", power=0.9, begin=0, end=160000, eta_min=1e-4, by_epoch=False)]
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.001, momentum=0.9, weight_decay=0.0),
)
auto_scale_lr = dict(base_batch_size=8)
