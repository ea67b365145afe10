# What should teach the scores? Short trainings at 60 %: python tools/misc/study.py configs/study/scores.py
folder = "../demo/"
few = {"train_dataloader.dataset.data_root": "data/scenes/", "model.bbox_head.stacked_convs": 2}
parts = ("backbone", "neck", "bbox_head")
networks = dict(
    det=dict(
        dense=folder + "atss_convnext-nano_fpn_scenes.py",
        routed=folder + "atss_dynamic-convnext-nano_whole-m60_fpn_finetune_scenes.py",
        parts=parts,
        iterations=600,
        both={**few, "test_evaluator.metric_items": ["mAP", "AR@100"]},
        options={
            "model.backbone.sparsity": dict(places=[(0, 0), (1, 0), (2, 0)], keep_ratio=[0.47] * 3, _delete_=True),
            "model.neck.sparsity": dict(keep_ratio=0.47, tile=2),
            "model.bbox_head.sparsity": dict(keep_ratio=0.47, tile=2),
            "optim_wrapper.constructor": "mmsparse.SparsityOptimWrapperConstructor",
            "optim_wrapper.paramwise_cfg": dict(backbone_mult=0.2, pretrained=parts),
        },
    ),
    seg=dict(
        dense=folder + "convnext-nano_upernet_scenes.py",
        routed=folder + "dynamic-convnext-nano_whole-m60_upernet_finetune_scenes.py",
        parts=("backbone", "decode_head"),
        iterations=1200,
        both={},
        options={
            "model.backbone.sparsity": dict(places=[(0, 0), (1, 0), (2, 0)], keep_ratio=[0.43] * 3, _delete_=True),
            "model.decode_head.sparsity.keep_ratio": 0.43,
        },
    ),
)
# What each kind changes in every `sparsity`, and the weight of the scores' supervision by labels.
kinds = {
    "stake": ({"learn": "stake"}, 0.0),
    "gain": ({"learn": "gain"}, 0.0),
    "gate": ({"learn": "gate"}, 0.0),
    "labels": ({"learn": "gate"}, 1.0),
    "labels+stake": ({"learn": "stake"}, 1.0),
    "norm": ({"scorer.type": "FeatureNormScorer"}, 0.0),
    "random": ({"scorer.type": "RandomScorer"}, 0.0),
}
runs = [dict(name="nano", config=folder + "atss_convnext-nano_scenes.py")]
for name, net in networks.items():
    start = dict(start=f"dense-{name}", iterations=200)
    runs += [
        dict(
            name=f"dense-{name}",
            config=net["dense"],
            backbone="nano",
            iterations=net["iterations"],
            options=net["both"],
        ),
        dict(name=f"dense-{name}-on", config=net["dense"], options=net["both"], **start),
    ]
    for kind, (changes, weight) in kinds.items():
        options = {f"model.{part}.sparsity.{key}": value for part in net["parts"] for key, value in changes.items()}
        hooks = {"custom_hooks": [dict(type="mmsparse.SparsityHook", score_weight=weight)]}
        options = {**net["both"], **net["options"], **options, **hooks}
        runs.append(dict(name=f"{kind}-{name}", config=net["routed"], options=options, at=[0.75, 0.6, 0.45], **start))
