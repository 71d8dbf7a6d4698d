"""The names that the ``create_*`` functions take."""

from __future__ import annotations

import fnmatch


def list_models(pattern: str = "*") -> list[str]:
    """Names of every encoder and detector that match a shell-style pattern, in family order.

    >>> list_models("efficientdet_d[01]")
    ['efficientdet_d0', 'efficientdet_d1']
    """
    from effdense.models.detection import detector_names
    from effdense.models.encoders import encoder_names

    return [name for name in (*encoder_names(), *detector_names()) if fnmatch.fnmatchcase(name, pattern)]
