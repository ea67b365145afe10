_base_ = "./lvvit-s_k70_8xb128-30e_in1k.py"
load_from = "work_dirs/lvvit-m.pth"
model = dict(backbone=dict(arch="medium"), head=dict(in_channels=512))
