# What routing is worth on CamVid, beside the cheap rivals: python tools/misc/study.py configs/study/camvid.py
dense = "../camvid/convnext-nano_upernet_camvid.py"
narrow = "../camvid/convnext-nano-w24_upernet-w24_camvid.py"
routed = "../camvid/dynamic-convnext-nano_whole-m60_upernet_finetune_camvid.py"
chance = {
    "model.backbone.sparsity.scorer": dict(type="RandomScorer", _delete_=True),
    "model.decode_head.sparsity.scorer": dict(type="RandomScorer"),
}
small = {"test_dataloader.dataset.pipeline.1.scale": (384, 288)}
runs = [
    dict(name="dense-32", config=dense, series="dense"),
    dict(name="routed-32", config=routed, start="dense-32", at=["own", 0.8, 1.0], series="routed"),
    dict(name="dense-32-on", config=dense, start="dense-32", iterations=1200, series="dense, trained on"),
    dict(name="dense-24", config=narrow, series="dense"),
    dict(name="dense-24-on", config=narrow, start="dense-24", iterations=1200, series="dense, trained on"),
    dict(name="dense-32-more", config=dense, start="dense-32-on", iterations=1600, series="dense, for as long"),
    dict(name="small-32", config=dense, start="dense-32-more", train=False, options=small, series="dense, 384x288"),
    dict(name="random-32", config=routed, start="dense-32", options=chance, series="random"),
]
