"""``timm:NAME`` and ``hf:OWNER/NAME[@REVISION][:FILE][#sha256=HEX]``: a file of the Hugging Face hub, cache first.

    timm:tf_efficientnet_b0.aa_in1k       the repository timm/tf_efficientnet_b0.aa_in1k; its name tells the convention
    hf:smp-hub/efficientnet-b0.imagenet@1bbe7ecc1d5ea1d2058de1a2db063b8701aff314
    hf:me/nets:b3/best.safetensors#sha256=<64 hex digits>

A pinned revision or hash gives the same weights tomorrow; without one the report states the commit that was used.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effdense.errors import MissingExtra, WeightsError, did_you_mean
from effdense.models.weights.read import Source, read_source
from effdense.models.weights.timm import convention_of_name

_FILES = ("model.safetensors", "pytorch_model.bin")
_NAME = r"[A-Za-z0-9][\w.-]*"
_HF = re.compile(
    rf"hf:(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[^#:]+))?"
    r"(?:#sha256=(?P<sha256>[0-9a-fA-F]{64}))?"
)
_TIMM = re.compile(rf"timm:(?P<name>{_NAME})")


@dataclass(frozen=True)
class HubFile:
    """What a source string names. Attributes: file None stands for the usual names, revision None for ``main``."""

    repo: str
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None


def fetch(source: str) -> Source:
    """The tensors of a hub source, with the convention where the name tells it.

    Raises: WeightsError for a source that is malformed, neither cached nor to be reached, or of another hash;
        MissingExtra without huggingface_hub.
    """
    if source.startswith("timm:"):
        wanted, (padding, bn_eps) = _timm_file(source)
    else:
        wanted = parse(source)
        owner, name = wanted.repo.split("/")
        known = owner == "timm" and wanted.file is None
        padding, bn_eps = convention_of_name(name) if known else (None, None)
    path, commit = _locate(wanted)
    if wanted.sha256 is not None:
        _check_hash(path, wanted)
    read = read_source(path)
    notes = read.notes
    if wanted.sha256 is None and commit != wanted.revision:
        notes += (f"{wanted.repo} at commit {commit} (not pinned: add @{commit})",)
    return replace(read, padding=read.padding or padding, bn_eps=read.bn_eps or bn_eps, notes=notes)


def parse(source: str) -> HubFile:
    """Take an ``hf:`` source apart.

    Raises: WeightsError where it has another form, or its file lies outside the repository.
    """
    match = _HF.fullmatch(source)
    parts = re.split(r"[/\\]", (match["file"] or "") if match else "")
    revision = (match["revision"] or "") if match else ""
    if match is None or ".." in parts or (match["file"] and "" in parts) or ".." in revision.split("/"):
        raise WeightsError(
            f"{source!r} is no hub source; expected hf:OWNER/NAME[@REVISION][:FILE][#sha256=64 hex digits], with FILE "
            "inside the repository."
        )
    return HubFile(match["repo"], match["revision"], match["file"], match["sha256"])


def _timm_file(source: str) -> tuple[HubFile, tuple[str | None, float | None]]:
    match = _TIMM.fullmatch(source)
    if match is None:
        raise WeightsError(f"{source!r} is no timm source; expected e.g. timm:tf_efficientnet_b0.aa_in1k.")
    name = match["name"]
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError:
        timm = None
    if timm is None:
        if "." not in name:
            raise MissingExtra(
                f"timm:{name} names no pretrained tag, and timm, which knows the default one, is not installed. "
                "Write the tag (timm:tf_efficientnet_b0.aa_in1k), or: pip install timm."
            )
        return HubFile(f"timm/{name}"), convention_of_name(name)
    return HubFile(_repository(timm, name)), _built_convention(timm, name)


def _repository(timm: Any, name: str) -> str:
    """The repository of a timm name, its default tag filled in.

    Raises: WeightsError for a name that timm does not know, or knows no weights for.
    """
    if not timm.is_model(name):
        known = timm.list_models("*efficientnet*")
        raise WeightsError(f"timm has no model {name!r}.{did_you_mean(name.split('.')[0], known)}")
    tags = timm.list_pretrained(f"{name.split('.')[0]}.*")
    if "." in name:
        if name not in tags:
            raise WeightsError(f"timm has no weights {name!r}; it has {', '.join(tags) or 'none of that model'}.")
        return f"timm/{name}"
    config = timm.get_pretrained_cfg(name)
    if config is None or f"{name}.{config.tag}" not in tags:
        raise WeightsError(f"timm has no pretrained weights of {name!r}.")
    return f"timm/{name}.{config.tag}"


def _built_convention(timm: Any, name: str) -> tuple[str, float]:
    """Padding and epsilon of the model that timm itself builds by this name."""
    import torch

    with torch.device("meta"):
        model = timm.create_model(name.split(".")[0], pretrained=False)
    stem, bn = getattr(model, "conv_stem", None), getattr(model, "bn1", None)
    if stem is None or bn is None:
        return convention_of_name(name)
    return "same" if type(stem).__name__ == "Conv2dSame" else "symmetric", float(bn.eps)


def _locate(wanted: HubFile) -> tuple[Path, str]:
    """Path and commit of the file: from the cache where it is there, else downloaded."""
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise MissingExtra("hub sources need huggingface_hub: pip install huggingface_hub.") from error
    files = (wanted.file,) if wanted.file else _FILES
    cache = hub.constants.HF_HUB_CACHE
    for file in files:
        try:
            return _found(hub.hf_hub_download(wanted.repo, file, **_options(wanted, cache), local_files_only=True))
        except (errors.LocalEntryNotFoundError, errors.EntryNotFoundError, FileNotFoundError):
            continue
    failure: Exception | None = None
    for file in files:
        try:
            return _found(hub.hf_hub_download(wanted.repo, file, **_options(wanted, cache)))
        except errors.LocalEntryNotFoundError as error:  # the hub cannot be reached; also a kind of EntryNotFoundError
            failure = error
            break
        except errors.EntryNotFoundError as error:
            failure = error
        except Exception as error:  # transport errors have no common class over the versions of huggingface_hub
            failure = error
            break
    raise WeightsError(_why_not(wanted, files, cache, failure)) from failure


def _options(wanted: HubFile, cache: str) -> dict[str, Any]:
    return {"revision": wanted.revision, "cache_dir": cache}


def _found(path: str) -> tuple[Path, str]:
    """The commit is the folder below ``snapshots``."""
    parts = Path(path).parts
    commit = parts[parts.index("snapshots") + 1] if "snapshots" in parts else "unknown"
    return Path(path), commit


def _why_not(wanted: HubFile, files: tuple[str, ...], cache: str, failure: Exception | None) -> str:
    revision = wanted.revision or "main"
    reason = str(failure).strip().splitlines()[0][:160].rstrip(".:") if str(failure).strip() else "no answer"
    return (
        f"{' or '.join(files)} of {wanted.repo} at revision {revision} is not in the cache {cache} and could not be "
        f"fetched ({type(failure).__name__}: {reason}). Where there is a network, run `hf download {wanted.repo} "
        f"{files[0]} --revision {revision}` and copy that cache folder here, or give the file's path instead."
    )


def _check_hash(path: Path, wanted: HubFile) -> None:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != (wanted.sha256 or "").lower():
        raise WeightsError(
            f"{path.name} of {wanted.repo} has sha256 {digest.hexdigest()}, expected {wanted.sha256}. It was not read; "
            "the copy is damaged, or the repository has changed."
        )
