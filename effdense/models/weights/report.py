"""The account of one loading: what arrived, what was changed on the way, what stayed as it was."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class LoadReport:
    """What ``load_weights`` did. Lists hold the model's keys; ``unexpected`` and ``unused`` hold the source's.

    Attributes:
        layout: what the source was recognised as, for example "torchvision".
        model: name of the model that was filled, for example "efficientnet_b0".
        part: "" for the whole model, else the part that was filled ("backbone", "encoder").
        total: tensors in the model's state dict.
        loaded: parameters and buffers copied.
        missing: keys of the model that the source lacks. Refused, so empty after a load.
        counters: BatchNorm's counters of batches that the source lacks; they stay as they were and do not matter.
        unexpected: keys of the source that nothing in the model answers to.
        remade: prediction layers of another number of classes; rows that are not in ``copied_rows`` keep their
            initialisation.
        unused: keys known to belong to parts that this model does not have (classification head, unbuilt late stages).
        adapted: what was changed so that features equal the source's (convention of the model, input channels).
        notes: what could not be known or decided, as sentences.
        copied_rows: names of the classes whose prediction rows were found by name.
    """

    layout: str
    model: str = ""
    part: str = ""
    total: int = 0
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    counters: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    copied_rows: list[str] = field(default_factory=list)
    remade_text: str = ""

    def __str__(self) -> str:
        into = f" into {self.part}" if self.part else ""
        parts = [f"loaded {len(self.loaded)}/{self.total} tensors ({self.layout} {self.model}{into})"]
        parts += [f"adapted: {', '.join(self.adapted)}"] if self.adapted else []
        parts += [f"re-made {self.remade_text}"] if self.remade_text else []
        parts += [f"{len(self.counters)} batch counters are not in the source"] if self.counters else []
        for name in ("unexpected", "unused"):
            keys = getattr(self, name)
            if keys:
                more = f", ... {len(keys) - 3} more" if len(keys) > 3 else ""
                parts.append(f"{name} {len(keys)}: {', '.join(keys[:3])}{more}")
        return "; ".join(parts + [note.rstrip(".") for note in self.notes])
