"""The detector of effdet_b0_shapes.py with progressive learning: from 64 px to 128 px in three stages.

Run:      python tools/train.py configs/effdet_b0_shapes_progressive.py
Hardware: 2 CPU cores, 9 minutes beside other jobs
Score:    val AP .265, AP50 .452 (one run, seed 0) for 52 % of the compute of the fixed-size run (.459, .685): half a
          shape's size costs a detector of small shapes more than it saves; see docs/benchmarks.md for where it pays
"""

_base_ = ["effdet_b0_shapes.py"]

default_hooks = dict(
    progressive=dict(type="ProgressiveLearningHook", stages=3, image_size=(64, 128), drop_path=(0.0, 0.1))
)
