# Generated circuit boards as a segmentation data set, made with
# python tools/dataset_converters/make_boards.py data/boards --images 600 --size 1024 --seed 0 --val 150
dataset_type = "BaseSegDataset"
data_root = "data/boards/"
metainfo = dict(
    classes=("background", "open", "short", "mousebite", "spur", "copper", "pin-hole"),
    palette=[
        (120, 120, 120), (220, 20, 60), (0, 0, 200), (0, 130, 0), (190, 120, 0), (140, 0, 190), (0, 160, 170),
    ],
)  # fmt: skip
# No Resize: a defect is a few pixels wide, whatever the picture's size.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomCrop", crop_size=(512, 512)),
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1024, 1024), keep_ratio=True),
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
    batch_size=2,
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
