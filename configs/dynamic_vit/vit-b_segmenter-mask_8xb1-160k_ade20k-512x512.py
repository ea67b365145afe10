_base_ = [
    "../_base_/models/segmenter_vit.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/schedule_segmenter_160k.py",
    "../_base_/default_runtime_seg.py",
]
train_dataloader = dict(batch_size=1)
