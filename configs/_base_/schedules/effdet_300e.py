# EfficientDet's published recipe (EfficientDet section 5.1; automl efficientdet/hparams_config.py): SGD .9, LR .08 per
# batch 64, one warm-up epoch from .008, cosine over 300 epochs, weight decay 4e-5 off norm and bias, gradient norm 10,
# SyncBN.
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=10)
val_cfg = dict()

optim_wrapper = dict(
    type="EffOptimWrapper",
    optimizer=dict(type="SGD", lr=0.08, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(flat_decay_mult=0.0),  # one-dimensional tensors: norm, bias, fusion weights
    clip_grad=dict(max_norm=10.0),
)
auto_scale_lr = dict(base_batch_size=64, enable=True)
param_scheduler = [dict(type="WarmupCosineLR", warmup=1, warmup_factor=0.1, convert_to_iter_based=True)]
sync_bn = True
