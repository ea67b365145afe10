_base_ = [
    "../_base_/models/classifier_swin.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/schedules/schedule_imagenet_120e.py",
    "../_base_/default_runtime_cls.py",
]
load_from = (
    "https://mmassets.onedl.ai/mmclassification/v0/swin-transformer/convert/swin_tiny_patch4_window7_224-160bb0a5.pth"
)
