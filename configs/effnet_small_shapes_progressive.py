"""The classifier of effnet_small_shapes.py with progressive learning: from 56 px and weak regularisation to 96 px.

Run:      python tools/train.py configs/effnet_small_shapes_progressive.py
Hardware: 2 CPU cores, 4 minutes
Score:    val top-1 .955 (seeds 0, 1, 2: .965, .943, .958) for 64 % of the fixed-size run's training pixels
"""

_base_ = ["effnet_small_shapes.py"]

default_hooks = dict(
    progressive=dict(
        type="ProgressiveLearningHook",
        stages=4,
        image_size=(56, 96),
        divisor=8,
        dropout=(0.1, 0.2),
        randaugment=(1, 5),
    )
)
