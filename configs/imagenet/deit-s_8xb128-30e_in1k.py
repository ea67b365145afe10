_base_ = [
    "../_base_/models/classifier_deit.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/schedules/schedule_imagenet_30e.py",
    "../_base_/default_runtime_cls.py",
]
load_from = "https://mmassets.onedl.ai/mmclassification/v0/deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth"
