# Whether routing pays where objects lie nearly everywhere: python tools/misc/study.py configs/study/bccd.py
dense = "../bccd/atss_convnext-nano_fpn_bccd.py"
narrow = "../bccd/atss_convnext-nano-w48_fpn-w48_bccd.py"
routed = "../bccd/atss_dynamic-convnext-nano_whole-m60_fpn_finetune_bccd.py"
small = {"test_dataloader.dataset.pipeline.1.scale": (256, 192)}
on = dict(iterations=1200, series="dense, trained on")
runs = [
    dict(name="dense-64", config=dense, series="dense"),
    dict(name="dense-48", config=narrow, series="dense"),
    dict(name="routed-64", config=routed, start="dense-64", at=["own", 0.8, 1.0], series="routed"),
    dict(name="dense-64-on", config=dense, start="dense-64", **on),
    dict(name="dense-48-on", config=narrow, start="dense-48", **on),
    dict(name="small-64", config=dense, start="dense-64-on", train=False, options=small, series="dense, 256x192"),
]
pairs = [(f"routed-64{at}", "dense-64-on") for at in ("", "@0.8", "@1.0")] + [("routed-64", "dense-48-on")]
