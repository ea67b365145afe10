# Everything kept learns the labels in the same step and teaches the routed pass; the backbone's scorers look further.
_base_ = "./atss_dynamic-convnext-nano-w128_whole-m35_fpn-w128_finetune_boards.py"

model = dict(backbone=dict(sparsity=dict(scorer=dict(type="PeakScorer", deep=2, _delete_=True))))
custom_hooks = [dict(type="mmsparse.SparsityHook", score_weight=1.0), dict(type="mmsparse.InPlaceHook")]
