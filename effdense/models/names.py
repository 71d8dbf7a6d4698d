"""The names that the ``create_*`` functions take."""

from __future__ import annotations

import fnmatch


def list_models(pattern: str = "*") -> list[str]:
    """Names of every encoder, detector and segmentor that match a shell-style pattern, in family order.

    >>> list_models("efficientdet_d[01]")
    ['efficientdet_d0', 'efficientdet_d1']
    """
    from effdense.models.detection import detector_names
    from effdense.models.encoders import encoder_names
    from effdense.models.segmentation import segmentor_names

    names = (*encoder_names(), *detector_names(), *segmentor_names())
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]
