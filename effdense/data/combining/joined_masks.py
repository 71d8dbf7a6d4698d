"""Segmentation sets joined, or with other classes: each part is read as its own files say, then relabelled.

Parts may differ in everything: folders, numbers or colours of the classes, panoptic masks. Symbols: N pictures over all
parts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdense.data.combining.class_mapping import ClassTable
from effdense.data.readers.mask_folder import SegmentationRecord, SegmentationRecords
from effdense.data.readers.mask_values import IGNORE, MaskCoding, MaskPixels, code_color
from effdense.data.records import ClassMap
from effdense.errors import DataError


@dataclass(frozen=True, eq=False)
class JoinedMasks:
    """What :class:`SegmentationRecords` are to the datasets, of one or several parts.

    Attributes:
        class_map: of all parts together.
        parts: the records as they were read.
        tables: for each part (256,) uint8 from its labels to those of ``class_map``; 255 is ignored.
        part_of, row_of: (N,) which part picture i is in, and where.
    """

    class_map: ClassMap
    parts: tuple[SegmentationRecords, ...]
    tables: tuple[NDArray[np.uint8], ...] = field(repr=False)
    part_of: NDArray[np.int32] = field(repr=False)
    row_of: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.part_of)

    def _at(self, index: int) -> tuple[SegmentationRecords, int]:
        index = range(len(self))[index]
        return self.parts[int(self.part_of[index])], int(self.row_of[index])

    def __getitem__(self, index: int) -> SegmentationRecord:
        part, row = self._at(index)
        return part[row]

    @property
    def coding(self) -> MaskCoding:
        """What a mask of the joined set would hold: the labels themselves."""
        return MaskCoding(tuple(range(len(self.class_map))))

    @property
    def ignore_index(self) -> int | None:
        """255, as masks of a joined set are handed out."""
        return IGNORE

    @property
    def source(self) -> Path | str:
        """The sources of the parts."""
        return " + ".join(dict.fromkeys(str(part.source or part.image_dir) for part in self.parts))

    @property
    def image_dir(self) -> Path:
        """The folder that all pictures lie under."""
        return Path(os.path.commonpath([os.path.abspath(part.image_dir) for part in self.parts]))

    def source_of(self, index: int) -> str:
        """Split file or folder that picture ``index`` came from."""
        part, _ = self._at(index)
        return str(part.source or part.image_dir)

    def path(self, index: int) -> Path:
        """Picture file of record ``index``."""
        part, row = self._at(index)
        return part.path(row)

    def mask_path(self, index: int) -> Path:
        """Mask file of record ``index``."""
        part, row = self._at(index)
        return part.mask_path(row)

    @property
    def image_paths(self) -> list[Path]:
        """All picture files."""
        return [self.path(index) for index in range(len(self))]

    @property
    def mask_paths(self) -> list[Path]:
        """All mask files."""
        return [self.mask_path(index) for index in range(len(self))]

    def read_mask(self, index: int, data: bytes | None = None) -> MaskPixels:
        """Labels of a mask file (or its bytes).

        Raises: DataError where it cannot be read or holds values that are no class.
        """
        part, row = self._at(index)
        mask = part.read_mask(row, data)
        if mask.unknown:
            values = [code_color(value) if mask.is_color else value for value in sorted(mask.unknown)[:6]]
            raise DataError(
                f"{part.mask_path(row)}: the mask holds {'colours' if mask.is_color else 'values'} that are no class "
                f"({', '.join(map(str, values))}). check_masks finds every such file and says the likely reason."
            )
        return mask._replace(labels=self.tables[int(self.part_of[index])][mask.labels])

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) px of a mask, from the head of its file."""
        part, row = self._at(index)
        return part.size(row)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> JoinedMasks:
        """The same set with only these pictures, in this order."""
        chosen = np.array([range(len(self))[int(i)] for i in indices], np.int64)
        return replace(self, part_of=self.part_of[chosen], row_of=self.row_of[chosen])

    def relabelled(self, table: ClassTable) -> JoinedMasks:
        """With other classes; pixels of a dropped class are ignored."""
        step = np.full(256, IGNORE, np.uint8)
        step[: len(table.to)] = np.where(table.to < 0, IGNORE, table.to)
        return replace(self, class_map=table.class_map, tables=tuple(step[one] for one in self.tables))


def join_masks(parts: Sequence[SegmentationRecords | JoinedMasks]) -> JoinedMasks:
    """One after the other; labels must mean the same in all (``concatenate`` sees to that)."""
    whole: list[SegmentationRecords] = []
    tables: list[NDArray[np.uint8]] = []
    part_of: list[NDArray[np.int32]] = []
    row_of: list[NDArray[np.int64]] = []
    for part in parts:
        if isinstance(part, JoinedMasks):
            part_of.append((part.part_of + len(whole)).astype(np.int32))
            row_of.append(part.row_of)
            whole += part.parts
            tables += part.tables
            continue
        part_of.append(np.full(len(part), len(whole), np.int32))
        row_of.append(np.arange(len(part)))
        whole.append(part)
        table = np.full(256, IGNORE, np.uint8)
        table[: len(part.class_map)] = np.arange(len(part.class_map))
        tables.append(table)
    return JoinedMasks(parts[0].class_map, tuple(whole), tuple(tables), np.concatenate(part_of), np.concatenate(row_of))
