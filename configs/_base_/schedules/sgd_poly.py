# Segmentation's classic for VOC and Cityscapes, from encoder weights (DeepLab, PSPNet, MMSegmentation's 40k schedules):
# SGD .9, LR .01 per batch 16, weight decay 5e-4, polynomial decay of power .9 to a hundredth. 60 epochs of VOC's 10582
# pictures are 40k iterations; Cityscapes takes 215 for 80k at batch 8. Ours are the short warm-up, the clipping, and no
# weight decay of norm and bias. A decoder ten times as fast as its encoder (DeepLab on VOC): lr=0.1 and
# paramwise_cfg=dict(encoder_lr_mult=0.1).
train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=5)
val_cfg = dict()

optim_wrapper = dict(
    type="EffOptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0),
)
auto_scale_lr = dict(base_batch_size=16, enable=True)
param_scheduler = [
    dict(type="WarmupPolyLR", power=0.9, warmup=1, warmup_factor=0.1, final_factor=0.01, convert_to_iter_based=True)
]
