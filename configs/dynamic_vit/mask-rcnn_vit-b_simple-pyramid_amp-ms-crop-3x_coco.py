_base_ = [
    "../_base_/models/mask-rcnn_vit_pyramid.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/schedule_vit_3x.py",
    "../_base_/default_runtime_det.py",
]
