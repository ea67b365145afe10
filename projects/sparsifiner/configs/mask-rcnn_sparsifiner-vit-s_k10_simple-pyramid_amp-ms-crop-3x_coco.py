# Mask R-CNN whose four global blocks attend to a tenth of the keys, in tiles of about the basis' own cells at
# 800x1344. Best started from the trained dense detector (--load-from): the predictors learn its attention first.
_base_ = "../../../configs/dynamic_vit/mask-rcnn_vit-s_simple-pyramid_amp-ms-crop-3x_coco.py"
custom_imports = dict(imports=["projects.sparsifiner"], allow_failed_imports=False)
model = dict(backbone=dict(type="mmsparse.SparsifinerViT", connectivity=dict(keep_ratio=0.1, tile=4)))
custom_hooks = [dict(type="mmsparse.ConnectivityHook", reconstruct=0.1)]
