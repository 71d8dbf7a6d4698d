"""The module that mmengine looks for by the name of the scope (``default_scope = "effdense"``): our registries,
unchanged.
"""

from effdense.engine.registry import *  # noqa: F403
