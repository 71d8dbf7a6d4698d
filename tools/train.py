"""Train a model: python tools/train.py configs/effdet_b0_shapes.py [--work-dir D] [--resume [PATH]] [--amp] ..."""

import sys

from effdense.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
