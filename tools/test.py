"""Evaluate a checkpoint: python tools/test.py configs/effdet_b0_shapes.py work_dirs/effdet_b0_shapes/best.pth [--out
results.json]
"""

import sys

from effdense.cli import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
