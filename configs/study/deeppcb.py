# What routing is worth on DeepPCB, beside the cheap rivals: python tools/misc/study.py configs/study/deeppcb.py
dense = "../deeppcb/atss_convnext-nano_fpn_deeppcb.py"
narrow = "../deeppcb/atss_convnext-nano-w40_fpn-w40_deeppcb.py"
routed = "../deeppcb/atss_dynamic-convnext-nano_whole-m41_fpn_finetune_deeppcb.py"
chance = {
    "model.backbone.sparsity.scorer": dict(type="RandomScorer", _delete_=True),
    "model.neck.sparsity.scorer": dict(type="RandomScorer"),
    "model.bbox_head.sparsity.scorer": dict(type="RandomScorer"),
}
runs = []
for seed in (0, 1, 2):
    start = f"dense-64-s{seed}"
    runs += [
        dict(name=start, config=dense, seed=seed, series="dense"),
        dict(name=f"routed-64-s{seed}", config=routed, start=start, seed=seed, at=["own", 0.55, 1.0], series="routed"),
        dict(name=f"{start}-on", config=dense, start=start, seed=seed, iterations=1200, series="dense, trained on"),
    ]
small = {"test_dataloader.dataset.pipeline.1.scale": (512, 512)}
whole = dict(config=dense, start="dense-64-s0-on", train=False)
runs += [
    dict(name="small-64", **whole, options=small, series="dense, 512x512"),
    dict(name="dense-40", config=narrow, series="dense"),
    dict(name="dense-40-on", config=narrow, start="dense-40", iterations=1200, series="dense, trained on"),
    dict(name="random-64", config=routed, start="dense-64-s0", options=chance, at=["own", 0.55], series="random"),
]
pairs = [("routed-64-s0", "dense-40-on"), ("random-64", "dense-64-s0-on")]
for seed in (0, 1, 2):
    pairs += [(f"routed-64-s{seed}{at}", f"dense-64-s{seed}-on") for at in ("", "@0.55", "@1.0")]
