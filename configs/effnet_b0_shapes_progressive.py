"""The classifier of effnet_b0_shapes.py with progressive learning: from 48 px and weak regularisation to 96 px.

Run:      python tools/train.py configs/effnet_b0_shapes_progressive.py
Hardware: 2 CPU cores
"""

_base_ = ["effnet_b0_shapes.py"]

default_hooks = dict(
    progressive=dict(
        type="ProgressiveLearningHook",
        stages=4,
        image_size=(48, 96),
        divisor=16,
        dropout=(0.1, 0.2),
        randaugment=(1, 5),
    )
)
