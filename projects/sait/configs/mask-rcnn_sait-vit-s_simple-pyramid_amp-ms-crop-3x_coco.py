# Dense epochs and sparse ones take turns; the map stays whole, a token that is dropped keeps its value.
_base_ = "../../../configs/dynamic_vit/mask-rcnn_vit-s_simple-pyramid_amp-ms-crop-3x_coco.py"
custom_imports = dict(imports=["projects.sait"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type="mmsparse.DynamicViT",
        sparsity=dict(
            places=[2],  # the first block that attends to the whole picture
            keep_ratio=[0.5],
            scorer=dict(type="TokenImportanceScorer"),
            selector=dict(type="ImportanceSelector"),
            detach=False,
        ),
    )
)
custom_hooks = [
    dict(type="mmsparse.SparsityHook", anneal=None),
    dict(type="mmsparse.ElasticHook", keep_ratios=[1.0, 0.5]),
    dict(type="mmsparse.TokenDistillHook", blocks=1),
]
