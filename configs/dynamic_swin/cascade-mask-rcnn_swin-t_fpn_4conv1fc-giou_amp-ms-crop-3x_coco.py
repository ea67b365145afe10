_base_ = [
    "../_base_/models/cascade-mask-rcnn_swin_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/schedule_swin_3x.py",
    "../_base_/default_runtime_det.py",
]
