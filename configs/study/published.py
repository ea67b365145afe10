# The detectors whose weights are in the repository: python tools/misc/study.py configs/study/published.py
# Trained in bfloat16, which is faster on a CPU that has it, and evaluated in float32.
folder = "../published/"
wide, narrow = (folder + f"atss_convnext-pico-w{width}_boards.py" for width in (128, 64))
routed = folder + "atss_dynamic-convnext-pico-w128_whole-m40_in-place_boards.py"
amp = {"optim_wrapper.type": "mmsparse.CpuAmpOptimWrapper"}
first, more = dict(options=amp, iterations=4000), dict(options=amp, iterations=2500)
at = ["own", 0.33, 0.5, 1.0]
runs = [
    dict(name="dense-start", config=wide, series="dense, 4000", **first),
    dict(name="narrow-start", config=narrow, series="dense, 4000", **first),
    dict(name="routed", config=routed, start="dense-start", at=at, series="routed", **more),
    dict(name="dense", config=wide, start="dense-start", series="dense", **more),
    dict(name="narrow", config=narrow, start="narrow-start", series="dense", **more),
]
# A network and a picture of as few MACs as the routed one executes. (The network learned in float32, on a CPU without
# bfloat16 of its own.)
less = {
    "model.backbone.arch.channels": [40, 80, 100],
    "model.neck": dict(in_channels=[80, 100], out_channels=80),
    "model.bbox_head": dict(in_channels=80, feat_channels=80),
}
runs += [
    dict(name="less-start", config=wide, options=less, iterations=4000, series="dense, 4000"),
    dict(name="less", config=wide, options=less, iterations=2500, start="less-start", series="dense"),
]
# At 35 %, by the ratios that calibrate finds: as many iterations more for each, at a fifth of the rate.
longer = {"optim_wrapper.optimizer.lr": 2.4e-4}
at35 = {"model.backbone.sparsity.keep_ratio": [0.17, 0.17], "model.bbox_head.sparsity.keep_ratio": [0.18, 0.08]}
at35 |= {**longer, "custom_hooks.0.anneal": None}
runs += [
    dict(name="routed-longer", config=routed, options=at35, start="routed", at=at, series="routed, longer"),
    dict(name="dense-longer", config=wide, options=longer, start="dense", series="dense, longer"),
    dict(name="less-longer", config=wide, options={**less, **longer}, start="less", series="dense, longer"),
]
for run in runs[-3:]:
    run["iterations"] = 600
# A smaller picture of as few MACs: the wide network as it is, and trained on at that size.
smaller = {"test_dataloader.dataset.pipeline.1.scale": (640, 640)}
crops = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale_factor=0.625, keep_ratio=True),
    dict(type="RandomCrop", crop_size=(256, 256), allow_negative_crop=False),
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="PackDetInputs"),
]
learned = {**amp, **smaller, "train_dataloader.dataset.pipeline": crops}
to_smaller = dict(config=wide, start="dense", series="smaller picture")
runs += [
    dict(name="smaller", options=smaller, train=False, **to_smaller),
    dict(name="smaller-on", options=learned, iterations=1500, **to_smaller),
]
pairs = [("dense", "narrow"), ("dense", "less")]
pairs += [("routed", rival) for rival in ("narrow", "less", "smaller", "smaller-on")]
pairs += [(f"routed{budget}", "dense") for budget in ("", "@0.33", "@0.5", "@1.0")]
pairs += [("routed-longer", "dense"), ("routed-longer", "dense-longer"), ("routed-longer", "less-longer")]
