_base_ = [
    "../_base_/models/retinanet_convnext_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/schedule_3x.py",
    "../_base_/default_runtime_det.py",
]
