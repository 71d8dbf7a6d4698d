# What every run shares: hooks, logging, environment.
default_scope = "effdense"
launcher = "none"
log_level = "INFO"
resume = False
load_from = None

default_hooks = dict(
    runtime_info=dict(type="RuntimeInfoHook", interval=50),
    timer=dict(type="IterTimerHook"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    logger=dict(type="ConsoleHook", interval=50),
    metrics_file=dict(type="MetricsFileHook"),
    param_scheduler=dict(type="ParamSchedulerHook"),
    sync_buffers=dict(type="SyncBuffersHook"),
    ema=dict(type="EMAHook", decay=0.9998),
    guard=dict(type="GuardHook", non_finite="stop", interval=50),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep=2),
    pictures=dict(type="PicturesHook", num_images=12),
)
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
# tensorboard: "auto" where it is installed. console: "auto", "plain" or "rich". Also wandb, mlflow: True or dict(...);
# None here would keep a config that inherits from giving a dict.
logging = dict(tensorboard="auto", console="auto")
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
randomness = dict(seed=0, deterministic=False)
# Files and annotations are checked before training; decode=N also decodes N pictures or masks, "all" every one. None:
# no picture, every mask.
data_check = dict(enable=True, decode=None)
