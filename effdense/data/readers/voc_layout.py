"""Where the XML files and pictures of a Pascal VOC set are: a folder in, the files of each split out.

ROOT/JPEGImages/*.jpg  ROOT/Annotations/*.xml  ROOT/ImageSets/Main/train.txt     VOCdevkit
ROOT/train/*.jpg, *.xml  ROOT/valid/...  or all in ROOT itself                    LabelImg, Roboflow
ROOT/images/*.jpg  ROOT/annotations/*.xml                                         the same in two folders
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from effdense.data.readers.class_lists import ClassList, find_class_list, read_text
from effdense.data.readers.splits import ALL, folders_of, is_usual, list_pictures, named_splits
from effdense.errors import DataError

VOC_LAYOUT = (
    "A VOC set is laid out as ROOT/JPEGImages/*.jpg, ROOT/Annotations/*.xml and ROOT/ImageSets/Main/train.txt, or as "
    "*.xml beside *.jpg in ROOT, ROOT/train, ROOT/valid."
)
XML_FOLDERS = ("Annotations", "annotations", "xml", "xmls", "labels")
PICTURE_FOLDERS = ("JPEGImages", "images", "Images", "imgs", "img")


@dataclass(frozen=True)
class VocPart:
    """One split: XML files by name below ``xml_dir``, and where their pictures are.

    ``listed`` are the names of a split list, in its order; None: every XML file. ``only`` is a single file.
    """

    xml_dir: Path
    image_dir: Path
    listing: Path | None = None
    only: str | None = None

    def names(self) -> list[str]:
        """Names without ending, sorted. Raises: DataError for a list that leads out of the folder."""
        if self.only is not None:
            return [self.only]
        if self.listing is None:
            return xml_names(self.xml_dir)
        found = []
        for number, line in enumerate(read_text(self.listing, 1 << 30).splitlines(), start=1):
            if not (words := line.split()):
                continue
            # "name 1" says that the class is there, "name -1" that it is not; else spaces are part of a name
            text = words[0] if len(words) == 2 and words[1] in ("1", "0", "-1") else line.strip()
            text = text.replace("\\", "/")
            if ".." in text.split("/") or text.startswith("/"):
                raise DataError(f"{self.listing}:{number}: {text!r} leads out of the set; give names like 000001.")
            found.append(text.removesuffix(".xml").removesuffix(".jpg"))
        return sorted(dict.fromkeys(found))


@dataclass(frozen=True)
class VocLayout:
    """A VOC set found: its splits by usual name, other lists such as trainval, and its class list if it has one."""

    root: Path
    splits: dict[str, VocPart]
    others: dict[str, VocPart] = field(default_factory=dict)
    classes: ClassList | None = None


def xml_names(folder: Path) -> list[str]:
    """Names of the XML files below a folder, without ending, sorted."""
    paths = (file.relative_to(folder).as_posix() for file in folder.rglob("*.xml"))
    return sorted(path[:-4] for path in paths if not any(part.startswith(".") for part in path.split("/")))


def find_voc(path: Path) -> VocLayout | None:
    """The layout of an XML file or a folder; None where it is no VOC set.

    Raises: DataError where a folder holds several.
    """
    if path.is_file():
        if path.suffix.lower() != ".xml":
            return None
        folder, home = path.parent, path.parent.parent
        pictures = next((home / name for name in PICTURE_FOLDERS if (home / name).is_dir()), folder)
        pictures = folder if _holds_picture(folder, path.stem) else pictures
        return VocLayout(folder, {ALL: VocPart(folder, pictures, only=path.stem)}, {}, _classes(folder, home))
    inner = [path / name for name in folders_of(path) if name.startswith("VOC")]
    years = [folder for place in (path, *inner) for folder in _years(place)]
    if not (path / "JPEGImages").is_dir() and years:
        if len(years) > 1:
            raise DataError(f"{path} holds several VOC sets: {', '.join(map(str, years))}. Give one of them.")
        path = years[0]
    if path.name in XML_FOLDERS and not list_pictures(path) and _any_xml(path):  # Annotations alone was given
        beside = next((path.parent / name for name in PICTURE_FOLDERS if (path.parent / name).is_dir()), path)
        return VocLayout(path, {ALL: VocPart(path, beside)}, {}, _classes(path, path.parent))
    splits, others = _parts(path)
    return VocLayout(path, splits, others, _classes(path)) if splits else None


def _years(folder: Path) -> list[Path]:
    """VOC2007, VOC2012 and the like right below a folder."""
    named = [folder / name for name in folders_of(folder)]
    return [place for place in named if (place / "Annotations").is_dir() and (place / "JPEGImages").is_dir()]


def _parts(root: Path) -> tuple[dict[str, VocPart], dict[str, VocPart]]:
    whole = _part(root)
    if whole is not None:
        lists = _lists(root)
        if lists:
            found = {name: VocPart(whole.xml_dir, whole.image_dir, file) for name, file in lists.items()}
            return _shared(found)
        inner = [name for name in folders_of(whole.xml_dir) if is_usual(name)]
        if inner:  # Annotations/train, images/train
            return _shared({
                name: VocPart(whole.xml_dir / name, _below(whole.image_dir, name)) for name in inner
                if xml_names(whole.xml_dir / name)
            })  # fmt: skip
        if any((root / name).is_dir() and _part(root / name) for name in folders_of(root) if is_usual(name)):
            whole = None
    if whole is not None:
        return {ALL: whole}, {}
    pairs = [(name, _part(root / name)) for name in folders_of(root) if is_usual(name)]
    return _shared({name: part for name, part in pairs if part is not None})


def _shared(found: dict[str, VocPart]) -> tuple[dict[str, VocPart], dict[str, VocPart]]:
    """Usual splits, and other lists, which repeat pictures of theirs, apart."""
    named = named_splits(found)
    usual = {name: part for name, part in named.items() if is_usual(name)}
    return (usual, {name: part for name, part in named.items() if name not in usual}) if usual else (named, {})


def _part(folder: Path) -> VocPart | None:
    """XML and picture folder of one place; None where it has no XML file."""
    home = next((folder / name for name in XML_FOLDERS if (folder / name).is_dir() and _any_xml(folder / name)), None)
    if home is None:
        return VocPart(folder, folder) if any(folder.glob("*.xml")) else None
    pictures = next((folder / name for name in PICTURE_FOLDERS if (folder / name).is_dir()), None)
    if pictures is None:
        pictures = home if list_pictures(home) else folder
    return VocPart(home, pictures)


def _any_xml(folder: Path) -> bool:
    return next(folder.rglob("*.xml"), None) is not None


def _below(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _lists(root: Path) -> dict[str, Path]:
    """Split lists by name; those of one class (aeroplane_train.txt) are passed over."""
    for place in (root / "ImageSets" / "Main", root / "ImageSets", root / "splits"):
        files = sorted(place.glob("*.txt")) if place.is_dir() else []
        found = {file.stem: file for file in files if is_usual(file.stem) or file.stem == "trainval"}
        if found or (found := {file.stem: file for file in files if "_" not in file.stem}):
            return found
    return {file.stem: file for file in sorted(root.glob("*.txt")) if is_usual(file.stem) or file.stem == "trainval"}


def _classes(*folders: Path) -> ClassList | None:
    return find_class_list([place for folder in folders for place in (folder, folder / "Annotations")])


def _holds_picture(folder: Path, stem: str) -> bool:
    return any(name.rsplit(".", 1)[0] == stem for name in list_pictures(folder) if "/" not in name)
