# Whole networks at 55 and 60 % of their arithmetic on scenes: python tools/misc/study.py configs/study/scenes.py
# Trained in bfloat16, which is faster on a CPU that has it, and evaluated in float32.
folder = "../demo/"
dense = dict(det=folder + "atss_convnext-nano_fpn_scenes.py", seg=folder + "convnext-nano_upernet_scenes.py")
routed = dict(
    det=folder + "atss_dynamic-convnext-nano_whole-m60_fpn_finetune_scenes.py",
    seg=folder + "dynamic-convnext-nano_whole-m60_upernet_finetune_scenes.py",
)
parts = dict(det=("backbone", "neck", "bbox_head"), seg=("backbone", "decode_head"))
first, more = dict(det=4000, seg=3000), dict(det=2000, seg=1500)
at = ["own", 0.75, 0.45, 1.0]
amp = {"optim_wrapper.type": "mmsparse.CpuAmpOptimWrapper"}
runs = [dict(name="nano", config=folder + "atss_convnext-nano_scenes.py", series="its backbone's first training")]
for net, config in dense.items():
    start = dict(start=f"dense-{net}", iterations=more[net])
    chance = {**amp, **{f"model.{part}.sparsity.scorer": dict(type="RandomScorer") for part in parts[net]}}
    chance["model.backbone.sparsity.scorer"] = dict(type="RandomScorer", _delete_=True)
    runs += [
        dict(name=f"dense-{net}", config=config, backbone="nano", iterations=first[net], options=amp, series="dense"),
        dict(name=f"dense-{net}-on", config=config, options=amp, series="dense", **start),
        dict(name=f"routed-{net}", config=routed[net], options=amp, at=at, series=f"routed from {first[net]}", **start),
        dict(name=f"random-{net}", config=routed[net], options=chance, series="random", **start),
    ]
small = {**amp, "test_dataloader.dataset.pipeline.1.scale": (128, 128)}
later = dict(start="dense-det-on", iterations=2000, options=amp)
runs += [
    dict(name="dense-det-more", config=dense["det"], series="dense", **later),
    dict(
        name="small-det",
        config=dense["det"],
        start="dense-det-more",
        train=False,
        options=small,
        series="dense, 128x128",
    ),
    dict(name="routed-det-more", config=routed["det"], at=at, series="routed from 6000", **later),
]
pairs = [(f"{kind}-det", "dense-det-on") for kind in ("routed", "random")]
pairs += [(f"routed-det-more{at}", "dense-det-more") for at in ("", "@0.75", "@1.0")]
