"""The segmentor of effunet_b0_shapes.py with progressive learning: from 64 px to 128 px in three stages.

Run:      python tools/train.py configs/effunet_b0_shapes_progressive.py
Hardware: 2 CPU cores
Score:    not measured
"""

_base_ = ["effunet_b0_shapes.py"]

default_hooks = dict(
    progressive=dict(type="ProgressiveLearningHook", stages=3, image_size=(64, 128), drop_path=(0.0, 0.1))
)
