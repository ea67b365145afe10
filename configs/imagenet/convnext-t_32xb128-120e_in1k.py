_base_ = [
    "../_base_/models/classifier_convnext.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/schedules/schedule_imagenet_120e.py",
    "../_base_/default_runtime_cls.py",
]
load_from = "https://mmassets.onedl.ai/mmclassification/v0/convnext/convnext-tiny_32xb128_in1k_20221207-998cf3e9.pth"
