# What routing a ResNet is worth, beside random choice: python tools/misc/study.py configs/study/resnet.py
# Trained in bfloat16, which is faster on a CPU that has it, and evaluated in float32.
dense = dict(boards="../boards/atss_r34-w32_fpn_boards.py", scenes="../demo/atss_r34-w32_fpn_scenes.py")
routed = dict(
    boards="../boards/atss_dynamic-r34-w32_whole-m50_fpn_in-place_boards.py",
    scenes="../demo/atss_dynamic-r34-w32_whole-m65_fpn_finetune_scenes.py",
)
iterations = dict(boards=1200, scenes=2000)
parts = dict(boards=("backbone", "bbox_head"), scenes=("backbone", "neck", "bbox_head"))
amp = {"optim_wrapper.type": "mmsparse.CpuAmpOptimWrapper"}
at = ["own", 0.8, 1.0]
runs, pairs = [], []
for data, config in dense.items():
    chance = {**amp, **{f"model.{part}.sparsity.scorer": dict(type="RandomScorer") for part in parts[data]}}
    more = dict(start=f"dense-{data}", iterations=iterations[data])
    runs += [
        dict(name=f"dense-{data}", config=config, iterations=4000, options=amp, series="dense, 4000"),
        dict(name=f"dense-{data}-on", config=config, options=amp, series="dense", **more),
        dict(name=f"routed-{data}", config=routed[data], options=amp, at=at, series="routed", **more),
        dict(name=f"random-{data}", config=routed[data], options=chance, series="random", **more),
    ]
    pairs += [(f"routed-{data}{budget}", f"dense-{data}-on") for budget in ("", "@0.8", "@1.0")]
    pairs += [(f"random-{data}", f"dense-{data}-on")]
