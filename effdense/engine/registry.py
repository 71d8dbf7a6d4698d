"""Names that config files may use, as children of mmengine's registries under the scope ``effdense``.

A ``type='X'`` in a config is looked up here first and in mmengine's own registry of the same kind second; nothing has
to be imported by hand.
"""

from __future__ import annotations

import sys
from typing import Any

from mmengine import registry as mm
from mmengine.registry import Registry

from effdense.errors import ConfigError, did_you_mean

SCOPE = "effdense"
# mmengine looks for the registries of a scope in the module `<scope>.registry`, and warns where there is none. They
# live in this room, the only one that may import mmengine, so the name is given here instead of in a file beside it.
sys.modules.setdefault(f"{SCOPE}.registry", sys.modules[__name__])


def _child(parent: Registry, *modules: str) -> Registry:
    locations = [f"effdense.engine.{module}" for module in modules]
    return Registry(parent.name, parent=parent, scope=SCOPE, locations=locations)


MODELS = _child(mm.MODELS, "models")
MODEL_WRAPPERS = _child(mm.MODEL_WRAPPERS, "distributed")
DATASETS = _child(mm.DATASETS, "datasets")
TRANSFORMS = _child(mm.TRANSFORMS, "datasets")
# Ours alone: mmengine's samplers know nothing of SampleIndex.
SAMPLERS = Registry("effdense sampler", scope=SCOPE, locations=["effdense.engine.datasets"])
METRICS = _child(mm.METRICS, "metrics", "segmentation_metric")
HOOKS = _child(mm.HOOKS, "hooks")
LOOPS = _child(mm.LOOPS)
OPTIMIZERS = _child(mm.OPTIMIZERS)
OPTIM_WRAPPERS = _child(mm.OPTIM_WRAPPERS, "optim")
PARAM_SCHEDULERS = _child(mm.PARAM_SCHEDULERS, "schedules")
OPTIM_WRAPPER_CONSTRUCTORS = _child(mm.OPTIM_WRAPPER_CONSTRUCTORS, "parameter_groups")
VISBACKENDS = _child(mm.VISBACKENDS)
VISUALIZERS = _child(mm.VISUALIZERS)
LOG_PROCESSORS = _child(mm.LOG_PROCESSORS, "runner")  # importing it registers mmengine's


def _import_all(registry: Registry) -> None:
    """Run the imports that fill a registry and its parent; ``get`` alone would only do the former."""
    registry.import_from_location()
    if registry.parent is not None:
        registry.parent.import_from_location()


def known_names(registry: Registry) -> set[str]:
    """Every name a config may use with this registry: ours and mmengine's."""
    _import_all(registry)
    return set(registry.module_dict) | set(registry.parent.module_dict if registry.parent is not None else ())


def resolve(registry: Registry, type_name: Any, where: str) -> Any:
    """The class or function behind ``type=``; an unknown name raises ConfigError with the nearest ones.

    Args:
        where: dotted path of the dict in the config, for the message.
    """
    if not isinstance(type_name, str):
        return type_name
    _import_all(registry)
    found = registry.get(type_name.removeprefix(f"{SCOPE}."))
    if found is None:
        names = known_names(registry)
        raise ConfigError(f"{where}.type: unknown {registry.name} {type_name!r}.{did_you_mean(type_name, names)}")
    return found
