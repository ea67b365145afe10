# What routing is worth on boards of 1024x1024, over widths: python tools/misc/study.py configs/study/boards.py
folder = "../boards/"
routed = folder + "atss_dynamic-convnext-nano-w128_whole-m35_fpn-w128_finetune_boards.py"
runs = [
    dict(name="dense-128", config=folder + "atss_convnext-nano-w128_fpn-w128_boards.py", series="dense"),
    dict(name="dense-80", config=folder + "atss_convnext-nano-w80_fpn-w80_boards.py", series="dense"),
    dict(name="dense-64", config=folder + "atss_convnext-nano_fpn_boards.py", series="dense"),
    dict(name="routed-128", config=routed, start="dense-128", at=["own", 0.55, 1.0], series="routed"),
]
for run in runs[:2]:
    runs.append({**run, "name": run["name"] + "-on", "start": run["name"], "iterations": 500, "series": "trained on"})
pairs = [("routed-128", "dense-128"), ("routed-128", "dense-80"), ("dense-128", "dense-80"),
         ("routed-128", "dense-128-on"), ("routed-128", "dense-80-on")]  # fmt: skip
