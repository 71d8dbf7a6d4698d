"""Weight files and state dicts: safe reading, recognition, a report of what was loaded, export to timm's layout."""

from effdense.models.weights.export import save_timm, to_timm
from effdense.models.weights.load import load_weights
from effdense.models.weights.read import read_state_dict
from effdense.models.weights.report import LoadReport

__all__ = ["LoadReport", "load_weights", "read_state_dict", "save_timm", "to_timm"]
