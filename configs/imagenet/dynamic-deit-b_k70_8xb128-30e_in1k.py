_base_ = "./dynamic-deit-s_k70_8xb128-30e_in1k.py"
model = dict(backbone=dict(arch="deit-base", drop_path_rate=0.2), head=dict(in_channels=768))
load_from = "https://mmassets.onedl.ai/mmclassification/v0/deit/deit-base_3rdparty_pt-16xb64_in1k_20211124-6f40c188.pth"
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SparsityHook", loss_weight=5.0, anneal=None),
    dict(type="mmsparse.TeacherHook"),
]
