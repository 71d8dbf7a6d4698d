"""Keys of MMDetection's and MMSegmentation's configs that are called otherwise here, for messages."""

from __future__ import annotations

# By the last part of the path; a dotted one where that alone is also a key of ours, or says too little.
FOREIGN: dict[str, str] = {
    "dataset_type": "the type stands in train_dataloader.dataset",
    "data_root": "the folder is root of each data set",
    "metainfo": "classes are read from the annotations; classes=[...] takes only some",
    "data_prefix": "folders are options of the data set, such as root and image_dir",
    "backend_args": "files are read from disk",
    "file_client_args": "files are read from disk",
    "train_pipeline": "transforms are train_dataloader.dataset.transforms; loading and packing are done without",
    "val_pipeline": "transforms are val_dataloader.dataset.transforms; loading and packing are done without",
    "test_pipeline": "transforms are val_dataloader.dataset.transforms; loading and packing are done without",
    "pipeline": "the steps are transforms; loading and packing are done without",
    "tta_model": "test-time augmentation of a segmentor is model.inference",
    "tta_pipeline": "test-time augmentation of a segmentor is model.inference",
    "data": "data sets are train_dataloader.dataset and val_dataloader.dataset",
    "runner": "epochs are train_cfg=dict(max_epochs=...)",
    "optimizer_config": "clipping is optim_wrapper.clip_grad",
    "lr_config": "schedules are param_scheduler",
    "evaluation": "it is val_evaluator and train_cfg.val_interval",
    "checkpoint_config": "it is default_hooks.checkpoint",
    "log_config": "it is default_hooks.logger and logging",
    "vis_backends": "TensorBoard, W&B and MLflow are options of logging",
    "samples_per_gpu": "it is batch_size",
    "workers_per_gpu": "it is num_workers",
    "batch_sampler": "pictures of like shape share a batch with train_dataloader.group_by_aspect=True",
    "collate_fn": "batches are put together by the task",
    "data_preprocessor": "normalisation and padding follow the model",
    "backbone": "the whole network is named by model.name (effdense list), its encoder by model.encoder",
    "neck": "the whole network is named by model.name (effdense list)",
    "bbox_head": "the whole network is named by model.name (effdense list)",
    "decode_head": "the whole network is named by model.name (effdense list)",
    "auxiliary_head": "the whole network is named by model.name (effdense list)",
    "pretrained": "starting weights are model.weights or model.encoder_weights",
    "init_cfg": "starting weights are model.weights or model.encoder_weights",
    "visualization": "pictures are default_hooks.pictures",
    "max_keep_ckpts": "it is max_keep",
    "max_iters": "training counts epochs: max_epochs",
    "train_cfg.type": "there is one loop, which counts epochs; leave it out",
    "val_cfg.type": "there is one loop; leave it out",
    "test_cfg.type": "there is one loop; leave it out",
    "train_dataloader.sampler.type": "order and shuffling are done without; leave the sampler out",
    "val_dataloader.sampler": "every sample is taken once, in order; leave it out",
    "test_dataloader.sampler": "every sample is taken once, in order; leave it out",
}


def advice(where: str) -> str:
    """``" In MMDetection's and MMSegmentation's configs; here ..."``, empty for a key that is none of theirs."""
    said = FOREIGN.get(where) or FOREIGN.get(where.rpartition(".")[2])
    return f" That is a key of MMDetection's or MMSegmentation's configs; here {said}." if said else ""
