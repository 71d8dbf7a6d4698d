"""Weight files and state dicts: safe reading, layout recognition, and a report of what was loaded."""

from effdense.models.weights.load import LoadReport, load_weights, read_state_dict

__all__ = ["LoadReport", "load_weights", "read_state_dict"]
