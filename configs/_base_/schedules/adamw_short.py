# Small datasets, from random or encoder weights, in minutes to an hour: AdamW and a cosine.
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=5)
val_cfg = dict()

optim_wrapper = dict(
    type="EffOptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-2, fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [dict(type="WarmupCosineLR", warmup=1, warmup_factor=0.05, convert_to_iter_based=True)]
