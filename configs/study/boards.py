# What routing is worth on boards of 1024x1024, over widths: python tools/misc/study.py configs/study/boards.py
# Trained in bfloat16, which is faster on a CPU that has it, and evaluated in float32.
folder = "../boards/"
dense = {
    40: folder + "atss_convnext-nano-w40_fpn-w40_boards.py",
    64: folder + "atss_convnext-nano_fpn_boards.py",
    80: folder + "atss_convnext-nano-w80_fpn-w80_boards.py",
    128: folder + "atss_convnext-nano-w128_fpn-w128_boards.py",
}
routed = folder + "atss_dynamic-convnext-nano-w{0}_whole-m35_fpn-w{0}_finetune_boards.py"
amp = {"optim_wrapper.type": "mmsparse.CpuAmpOptimWrapper"}
first, more = dict(options=amp, iterations=4000), dict(options=amp, iterations=2000)
runs, pairs = [], []
for width in (80, 64, 128, 40):
    start = f"dense-{width}"
    runs.append(dict(name=start, config=dense[width], series="dense", **first))
    runs.append(dict(name=f"{start}-on", config=dense[width], start=start, series="dense, trained on", **more))
    if width in (80, 128):
        at = ["own", 0.45, 0.55, 1.0]
        runs.append(
            dict(name=f"routed-{width}", config=routed.format(width), start=start, at=at, series="routed", **more)
        )
        pairs += [(f"routed-{width}{budget}", f"{start}-on") for budget in ("", "@0.45", "@0.55", "@1.0")]
pairs += [("dense-128-on", "dense-80-on"), ("routed-80", "dense-64-on"), ("routed-128", "dense-80-on")]
