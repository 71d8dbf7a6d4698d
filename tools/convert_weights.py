"""Convert encoder weights of any layout that effdense reads into timm's layout; see docs/weights.md.

    python tools/convert_weights.py SOURCE OUT [--model NAME] [--padding same|symmetric] [--to timm]

SOURCE is a file, ``timm:NAME`` or ``hf:OWNER/NAME[@REVISION]``, OUT ends in .safetensors or .pth. The encoder of a
detector or segmentor is taken, the ImageNet head is kept where the source has one.
"""

from __future__ import annotations

import argparse
import sys

from effdense.errors import EffdenseError
from effdense.models.weights.export import convert_file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--model", help="encoder name; by default it is inferred from the shapes")
    parser.add_argument("--padding", help="of a source that cannot say: same (timm's tf_) or symmetric (timm's others)")
    parser.add_argument("--to", choices=("timm",), default="timm", help="layout to write")
    arguments = parser.parse_args()
    try:
        report, name = convert_file(arguments.source, arguments.out, model=arguments.model, padding=arguments.padding)
    except EffdenseError as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    print(f"wrote {arguments.out}: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
