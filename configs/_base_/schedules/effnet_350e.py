# EfficientNet's and EfficientNetV2's published recipe (1905.11946 section 5.2; 2104.00298 section 5.1): RMSProp .9 with
# momentum .9, LR .256 per batch 4096, 350 epochs, weight decay 1e-5 off norm and bias, EMA .9999. The LR follows a
# cosine after 5 warm-up epochs in place of the papers' steps of .97 every 2.4 epochs. torch adds eps outside the square
# root, TensorFlow inside it: .03 outside is nearest to their .001 inside for gradients near zero.
train_cfg = dict(by_epoch=True, max_epochs=350, val_interval=5)
val_cfg = dict()

optim_wrapper = dict(
    type="EffOptimWrapper",
    optimizer=dict(type="RMSprop", lr=0.256, alpha=0.9, momentum=0.9, eps=0.03, weight_decay=1e-5),
    paramwise_cfg=dict(flat_decay_mult=0.0),
)
auto_scale_lr = dict(base_batch_size=4096, enable=True)
param_scheduler = [dict(type="WarmupCosineLR", warmup=5, warmup_factor=0.01, convert_to_iter_based=True)]
sync_bn = False
