"""`dataset.json` of the Medical Segmentation Decathlon and of nnU-Net, and MONAI datalists."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from medseg.core.case import Case, Split, case_id
from medseg.core.errors import UsageError
from medseg.data.importers.draft import TARGET, Draft, is_image, not_understood, stem_of, unique_ids, values_of
from medseg.data.manifest import read_json_object

HEAD = "class"
_CHANNEL_NUMBER = re.compile(r"_\d{4}$")
_LISTS: dict[str, Split] = {
    "training": "train",
    "train": "train",
    "validation": "val",
    "val": "val",
    "testing": "test",
    "test": "test",
}
_FOLDERS: tuple[tuple[str, str, Split | None], ...] = (("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", "test"))
_RESERVED = {"image", "label", "fold", "case_id", "patient_id"}


def read_json_list(path: Path) -> Draft:
    """Read any of the three; which one shows in its keys.

    Raises:
        InputError: `E-IMPORT`, none of the three.
        UsageError: `E-REGION-LABELS`, overlapping regions instead of labels.
    """
    values = read_json_object(path)
    if "cases" in values and "schema_version" in values:
        raise not_understood(path, "this is a manifest of medseg already", "Use it with --manifest.")
    labels, ignore_value = _labels(values.get("labels") or {}, path)
    cases, note = _listed(values, path) if any(key in values for key in _LISTS) else (_scanned(values, path), "")
    if not cases:
        raise not_understood(
            path,
            "it lists no labelled cases and no imagesTr folder lies beside it",
            "Check that it is a dataset.json of MSD or nnU-Net, or a MONAI datalist, inside its dataset's folder.",
        )
    text = str(values.get("description") or "")
    return Draft(
        name=str(values.get("name") or path.parent.name),
        cases=tuple(cases),
        channels=_channels(values.get("channel_names") or values.get("modality") or ()),
        labels=labels,
        ignore_value=ignore_value,
        description=f"{text}; {note}".strip("; "),
        licence=str(values.get("licence") or values.get("license") or ""),
    )


def label_names(path: Path) -> tuple[dict[str, int], int | None]:
    """Name to mask value, and the ignore value, that a `dataset.json` declares.

    Raises:
        InputError: `E-MANIFEST-JSON`, or as `require_file`.
        UsageError: `E-REGION-LABELS`, `E-CONFIG`.
    """
    return _labels(read_json_object(path).get("labels") or {}, path)


def _labels(written: Any, path: Path) -> tuple[dict[str, int], int | None]:
    """Both directions: `{"1": "liver"}` (MSD) and `{"liver": 1}` (nnU-Net)."""
    if not isinstance(written, dict):
        raise UsageError(f"'labels' must be an object, got {written!r:.80}", code="E-CONFIG", file=path)
    regions = [name for name, value in written.items() if isinstance(value, list) and len(value) > 1]
    if regions:
        raise UsageError(
            f"labels {regions} are regions made of several values",
            code="E-REGION-LABELS",
            file=path,
            remedy="Give each mask value a label of its own; a region is the union of such labels.",
        )
    pairs = {}
    for key, value in written.items():
        plain = value[0] if isinstance(value, list) and value else value
        name, number = (str(plain), key) if _is_number(key) and not _is_number(plain) else (key, plain)
        if not _is_number(number):
            raise UsageError(f"label {name!r} needs a whole number, got {number!r}", code="E-CONFIG", file=path)
        pairs[name] = int(number)
    ignore_value = pairs.pop("ignore", None)
    return {name: number for name, number in pairs.items() if number != 0}, ignore_value


def _is_number(value: Any) -> bool:
    return str(value).isdecimal()


def _channels(written: Any) -> tuple[str, ...]:
    if isinstance(written, dict):
        return tuple(str(written[key]) for key in sorted(written, key=int))
    return (written,) if isinstance(written, str) else tuple(map(str, written))


def _listed(values: dict[str, Any], path: Path) -> tuple[list[Case], str]:
    """Cases of `training`, `validation` and `testing`; entries without any answer are left out and counted."""
    entries: list[tuple[dict[str, Any], Split]] = []
    num_bare = 0
    for key, split in _LISTS.items():
        for entry in values.get(key) or ():
            if isinstance(entry, dict) and "image" in entry and ("label" in entry or split == "train"):
                entries.append((entry, split))
            else:
                num_bare += 1
    marked = len({split for _, split in entries}) > 1
    images = [_images(entry["image"], path.parent) for entry, _ in entries]
    ids = unique_ids([paths[0] for paths in images]) if images else []
    cases = [
        _case(entry, paths, name, path.parent).model_copy(update={"split": split if marked else None})
        for (entry, split), paths, name in zip(entries, images, ids, strict=True)
    ]
    return cases, f"{num_bare} images without labels were left out" if num_bare else ""


def _images(written: Any, folder: Path) -> tuple[Path, ...]:
    """One path or a list of them; nnU-Net version 1 lists `case.nii.gz` for the files `case_0000.nii.gz` ..."""
    if isinstance(written, list):
        return tuple(folder / str(path) for path in written)
    path = folder / str(written)
    if not path.exists() and path.parent.is_dir():
        stem = stem_of(path)
        return tuple(sorted(path.parent.glob(f"{stem}_[0-9][0-9][0-9][0-9]{path.name[len(stem) :]}"))) or (path,)
    return (path,)


def _case(entry: dict[str, Any], images: tuple[Path, ...], fallback_id: str, folder: Path) -> Case:
    label = entry.get("label")
    is_mask = isinstance(label, str) and is_image(folder / label)
    fold = entry.get("fold")
    return Case(
        id=case_id(str(entry.get("case_id") or _without_number(fallback_id, entry["image"]))),
        patient=str(entry.get("patient_id") or ""),
        images=images,
        label=folder / str(label) if is_mask else None,
        classes={} if is_mask or label is None else {HEAD: str(label)},
        values=values_of(entry),
        fold=fold if isinstance(fold, int) and fold >= 0 else None,
        attributes={
            key: str(value) for key, value in entry.items() if key not in _RESERVED and not key.startswith(TARGET)
        },
    )


def _without_number(stem: str, written: Any) -> str:
    """The id of a case whose files were found by adding channel numbers to the name in the list."""
    bare = _CHANNEL_NUMBER.sub("", stem)
    return bare if isinstance(written, str) and bare == stem_of(Path(written)) else stem


def _scanned(values: dict[str, Any], path: Path) -> list[Case]:
    """NnU-Net raw data: the folders say which cases there are; only test cases with labels are taken."""
    folder, ending = path.parent, str(values.get("file_ending") or ".nii.gz")
    cases = []
    for images_name, labels_name, split in _FOLDERS:
        files: dict[str, list[Path]] = defaultdict(list)
        for image in sorted((folder / images_name).glob(f"*{ending}")):
            files[_CHANNEL_NUMBER.sub("", image.name.removesuffix(ending))].append(image)
        for name, images in files.items():
            label = folder / labels_name / f"{name}{ending}"
            if split is None or label.is_file():
                cases.append(Case(id=case_id(name), images=tuple(images), label=label, split=split))
    return cases
