# Segmentation with AdamW, from encoder weights: SegFormer's recipe (arXiv 2105.15203 section 4.1 and its code): 6e-5
# for the encoder and ten times that for the decoder, weight decay .01 off norm and bias, a straight line to 0 after a
# warm-up from almost 0, at batch 16. From random weights the encoder needs the decoder's rate:
# paramwise_cfg=dict(encoder_lr_mult=1.0).
train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=5)
val_cfg = dict()

optim_wrapper = dict(
    type="EffOptimWrapper",
    optimizer=dict(type="AdamW", lr=6e-4, weight_decay=1e-2, fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0, encoder_lr_mult=0.1),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [dict(type="WarmupPolyLR", power=1.0, warmup=1, warmup_factor=1e-6, convert_to_iter_based=True)]
