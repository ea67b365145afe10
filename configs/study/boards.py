# What routing is worth on boards of 1024x1024, over widths: python tools/misc/study.py configs/study/boards.py
# Trained in bfloat16, which is faster on a CPU that has it, and evaluated in float32.
folder = "../boards/"
dense = {
    40: folder + "atss_convnext-nano-w40_fpn-w40_boards.py",
    64: folder + "atss_convnext-nano_fpn_boards.py",
    80: folder + "atss_convnext-nano-w80_fpn-w80_boards.py",
    128: folder + "atss_convnext-nano-w128_fpn-w128_boards.py",
}
routed = folder + "atss_dynamic-convnext-nano-w{0}_whole-m35_fpn-w{0}_{1}_boards.py"
amp = {"optim_wrapper.type": "mmsparse.CpuAmpOptimWrapper"}
tenth = {**amp, "optim_wrapper.paramwise_cfg.backbone_mult": 0.1}
further = {"model.backbone.sparsity.scorer": dict(type="PeakScorer", hidden=16, deep=2, _delete_=True)}
at = ["own", 0.45, 0.55, 1.0]
first, more = dict(options=amp, iterations=4000), dict(options=amp, iterations=2000)
runs, pairs = [], []
for width in (80, 128, 64, 40):
    start, on = f"dense-{width}", f"dense-{width}-on"
    runs += [
        dict(name=start, config=dense[width], series="dense, 4000", **first),
        dict(name=on, config=dense[width], start=start, series="dense, 6000", **more),
        dict(name=f"dense-{width}-more", config=dense[width], start=on, series="dense", **more),
    ]
    if width in (80, 128):
        config = routed.format(width, "in-place")
        runs.append(dict(name=f"routed-{width}", config=config, start=on, at=at, series="routed", **more))
        pairs += [(f"routed-{width}{budget}", f"dense-{width}-more") for budget in ("", "@0.45", "@0.55", "@1.0")]
chance = {**amp, "model.bbox_head.sparsity.scorer": dict(type="RandomScorer")}
chance["model.backbone.sparsity.scorer"] = dict(type="RandomScorer", _delete_=True)
runs.append(
    dict(
        name="random-80",
        config=routed.format(80, "in-place"),
        start="dense-80-on",
        options=chance,
        iterations=2000,
        at=["own", 0.55],
        series="random",
    )
)
pairs += [("random-80", "routed-80"), ("random-80@0.55", "routed-80@0.55")]
# Of a dense network that has learned more: what routing it, and training it, for as long again gives.
for name, config, evaluated in (("dense", dense[128], {}), ("routed", routed.format(128, "in-place"), dict(at=at))):
    run = dict(
        name=f"{name}-128-long", config=config, start="dense-128-more", iterations=4000, options=amp, **evaluated
    )
    runs.append(dict(**run, series="dense" if name == "dense" else "routed"))
pairs += [(f"routed-128-long{budget}", "dense-128-long") for budget in ("", "@0.45", "@0.55", "@1.0")]
# What was tried with 80 channels: without everything kept in the same step, at a tenth of the rate, too.
alone = dict(config=routed.format(80, "finetune"), iterations=2000, at=at)
runs += [
    dict(name="alone-80", start="dense-80", options=amp, **alone),
    dict(name="tenth-80", start="dense-80-on", options=tenth, **alone),
    dict(name="further-80", start="dense-80-on", options={**tenth, **further}, **alone),
]
pairs += [("dense-128-more", "dense-80-more"), ("routed-128", "dense-80-more")]
