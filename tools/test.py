"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT [--split val|test|train] [--out FILE] [--tta] ..."""

import sys

from effdense.cli import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
