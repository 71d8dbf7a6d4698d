"""Pictures of what a model sees and says: boxes with labels, masks, truth beside prediction, contact sheets. cv2 only.

Every image that comes in or goes out is uint8 (H, W, 3) RGB.
"""

from __future__ import annotations

from effdense.visualize.draw import draw_boxes
from effdense.visualize.error_map import draw_errors, error_legend, wrong_share
from effdense.visualize.legend import class_legend
from effdense.visualize.masks import draw_mask, save_mask
from effdense.visualize.palette import background_labels, class_color
from effdense.visualize.picture import save_picture
from effdense.visualize.ranking import draw_ranking
from effdense.visualize.sheet import contact_sheet, side_by_side

__all__ = [
    "background_labels",
    "class_color",
    "class_legend",
    "contact_sheet",
    "draw_boxes",
    "draw_errors",
    "draw_mask",
    "draw_ranking",
    "error_legend",
    "save_mask",
    "save_picture",
    "side_by_side",
    "wrong_share",
]
