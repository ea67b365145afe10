# What routing is worth on DeepPCB, beside the cheap rivals: python tools/misc/study.py configs/study/deeppcb.py
dense = "../deeppcb/atss_convnext-nano_fpn_deeppcb.py"
narrow = "../deeppcb/atss_convnext-nano-w40_fpn-w40_deeppcb.py"
routed = "../deeppcb/atss_dynamic-convnext-nano_whole-m41_fpn_finetune_deeppcb.py"
chance = {
    "model.backbone.sparsity.scorer": dict(type="RandomScorer", _delete_=True),
    "model.neck.sparsity.scorer": dict(type="RandomScorer"),
    "model.bbox_head.sparsity.scorer": dict(type="RandomScorer"),
}
runs = [
    dict(name="dense-64", config=dense, series="dense"),
    dict(name="dense-64-on", config=dense, start="dense-64", iterations=1200, series="dense, trained on"),
    dict(name="routed-64", config=routed, start="dense-64", at=["own", 0.35, 0.55, 1.0]),
    dict(name="random-64", config=routed, start="dense-64", options=chance, at=["own", 0.55]),
    dict(name="dense-40", config=narrow, series="dense"),
    dict(name="dense-40-on", config=narrow, start="dense-40", iterations=1200, series="dense, trained on"),
]
pairs = [("routed-64", "dense-64-on"), ("routed-64@0.55", "dense-64-on"), ("routed-64@1.0", "dense-64-on"),
         ("random-64", "dense-64-on"), ("routed-64", "dense-40-on")]  # fmt: skip
