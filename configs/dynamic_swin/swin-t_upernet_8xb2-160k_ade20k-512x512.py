_base_ = [
    "../_base_/models/upernet_swin.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/schedule_swin_160k.py",
    "../_base_/default_runtime_seg.py",
]
