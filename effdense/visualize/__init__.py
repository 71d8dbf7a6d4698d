"""Pictures of what a model sees and says: boxes with labels, masks, truth beside prediction, contact sheets. cv2 only.

Every image that comes in or goes out is uint8 (H, W, 3) RGB.
"""

from __future__ import annotations

from effdense.visualize.draw import draw_boxes
from effdense.visualize.masks import draw_mask
from effdense.visualize.palette import class_color
from effdense.visualize.picture import save_picture
from effdense.visualize.ranking import draw_ranking
from effdense.visualize.sheet import contact_sheet, side_by_side

__all__ = [
    "class_color",
    "contact_sheet",
    "draw_boxes",
    "draw_mask",
    "draw_ranking",
    "save_picture",
    "side_by_side",
]
