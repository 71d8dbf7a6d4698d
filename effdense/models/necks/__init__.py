"""Necks: modules that turn an encoder's feature list into a feature pyramid."""

from effdense.models.necks.bifpn import BiFPN, bifpn_topology

__all__ = ["BiFPN", "bifpn_topology"]
