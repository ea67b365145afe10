# Generated scenes as a segmentation data set, made with
# python tools/dataset_converters/make_scenes.py data/scenes --images 2000 --size 160 --seed 0 --val 300
dataset_type = "BaseSegDataset"
data_root = "data/scenes/"
metainfo = dict(
    classes=(
        "background",
        "striped-disc", "plain-disc", "striped-star", "plain-star",
        "striped-cross", "plain-cross", "striped-ring", "plain-ring",
    ),
    palette=[
        (120, 120, 120), (220, 20, 60), (255, 140, 150), (0, 0, 200), (110, 170, 255),
        (0, 130, 0), (140, 230, 100), (190, 120, 0), (250, 220, 0),
    ],
)  # fmt: skip
# No random augmentation: pictures are cheap to generate, and a resumed run has the very losses of an uninterrupted one.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        reduce_zero_label=True,
        img_suffix=".jpg",
        seg_map_suffix=".png",
        data_prefix=dict(img_path="train/images", seg_map_path="train/labels"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        reduce_zero_label=True,
        img_suffix=".jpg",
        seg_map_suffix=".png",
        data_prefix=dict(img_path="val/images", seg_map_path="val/labels"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
