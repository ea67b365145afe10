# What routing is worth on boards of 1024x1024, over widths: python tools/misc/study.py configs/study/boards.py
folder = "../boards/"
routed = folder + "atss_dynamic-convnext-nano-w{0}_whole-m35_fpn-w{0}_finetune_boards.py"
runs = [
    dict(name="dense-128", config=folder + "atss_convnext-nano-w128_fpn-w128_boards.py", series="dense"),
    dict(name="dense-80", config=folder + "atss_convnext-nano-w80_fpn-w80_boards.py", series="dense"),
    dict(name="dense-64", config=folder + "atss_convnext-nano_fpn_boards.py", series="dense"),
    dict(name="dense-40", config=folder + "atss_convnext-nano-w40_fpn-w40_boards.py", series="dense"),
]
pairs = [("dense-128", "dense-80"), ("dense-80", "dense-64"), ("routed-128", "dense-80"), ("routed-80", "dense-64")]
for width, dense in ((80, runs[1]), (128, runs[0])):
    start = f"dense-{width}"
    runs += [
        dict(name=f"routed-{width}", config=routed.format(width), start=start, at=["own", 0.55, 1.0], series="routed"),
        {**dense, "name": f"{start}-on", "start": start, "iterations": 500, "series": "dense, trained on"},
    ]
    pairs += [(f"routed-{width}{at}", f"{start}-on") for at in ("", "@0.55", "@1.0")]
