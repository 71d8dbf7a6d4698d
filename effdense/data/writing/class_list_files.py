"""Class lists beside a converted set: ``classes.txt`` for other tools, ``classes.json`` with the category ids."""

from __future__ import annotations

import json
from pathlib import Path

from effdense.data.image_io import write_bytes_atomically
from effdense.data.records import ClassMap


def write_class_files(out: Path, class_map: ClassMap) -> None:
    """Write both; ``classes.txt`` only where every name is one line of its own."""
    content = {"classes": list(class_map.names), "category_ids": list(class_map.category_ids)}
    write_bytes_atomically(out / "classes.json", (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())
    if all(name == name.strip() and name and len(name.splitlines()) == 1 for name in class_map.names):
        write_bytes_atomically(out / "classes.txt", "".join(f"{name}\n" for name in class_map.names).encode())
