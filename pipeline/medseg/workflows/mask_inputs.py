"""Masks that are to be measured: which files, what their labels are called, and the images they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.errors import InputError
from medseg.core.findings import CasePrediction
from medseg.core.reading import AS_IT_IS, Reading
from medseg.data.manifest import read_json_object, read_manifest
from medseg.io.bundle import MANIFEST, BundleManifest
from medseg.io.documents import read_document
from medseg.io.files import require_path
from medseg.io.formats import SUFFIXES
from medseg.io.label_names import read_label_names
from medseg.workflows.mask_files import mask_case, masks_in

if TYPE_CHECKING:
    from medseg.core.case import Dataset
    from medseg.core.volume import LabelMap

_LESION_WORDS = re.compile(
    r"tumou?r|lesion|nodule|metastas|cancer|carcinoma|neoplas|adenoma|sarcoma|lymphoma|gtv|(?<![a-z])(cyst|mass)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class MaskRequest:
    """What a person says about masks.

    Attributes:
        image: One image or DICOM folder for one mask, or a folder with an image named after each case.
        labels: Name to value; None: from what lies beside the mask or in it.
        lesions: Labels that are lesions; None: those whose names say so.
        manifest: Names labels and images.
        bundle: Names labels.
        unit: Of the image; None: as the image's file says.
        reading: How the images are read.
        pictures: Whether lesions are drawn.
    """

    image: Path | None = None
    labels: Mapping[str, int] | None = None
    lesions: tuple[str, ...] | None = None
    manifest: Path | None = None
    bundle: Path | None = None
    unit: str | None = None
    reading: Reading = AS_IT_IS
    pictures: bool = True


@dataclass(frozen=True)
class MaskCase:
    """One mask; `labels` is None when nothing names its values, `image` when there is none."""

    id: str
    mask: Path
    image: Path | None
    labels: Mapping[str, int] | None


def collect_masks(masks: Path, request: MaskRequest) -> tuple[MaskCase, ...]:
    """A mask file, or every mask of a folder.

    Raises:
        InputError: `E-NO-INPUT` for a folder without masks, `E-NO-IMAGE` for a case without an image in the folder of
            images, or as the readers of manifests and bundles.
    """
    require_path(masks)
    paths = [masks] if masks.is_file() else [path for files in masks_in(masks).values() for path in files]
    if not paths:
        remedy = "Name a mask, or a folder of masks such as `medseg infer` writes."
        raise InputError("no mask is in this folder", code="E-NO-INPUT", file=masks, remedy=remedy)
    dataset = None if request.manifest is None else read_manifest(request.manifest)
    shared = request.labels or (None if dataset is None else dataset.labels)
    if shared is None and request.bundle is not None:
        shared = read_document(request.bundle / MANIFEST, BundleManifest).labels
    return tuple(
        MaskCase(
            mask_case(path),
            path,
            _image(mask_case(path), request.image, dataset, is_only=len(paths) == 1),
            shared or _names_beside(path) or read_label_names(path) or None,
        )
        for path in paths
    )


def named_labels(
    mask: LabelMap, case: MaskCase, request: MaskRequest
) -> tuple[dict[str, int], tuple[str, ...], list[str]]:
    """Labels, which of them are lesions, and flags that say what was assumed.

    A mask with a single value that nothing names is taken as lesions; several such values are taken as organs.
    """
    seen = np.zeros(int(mask.array.max(initial=0)) + 1, dtype=bool)
    seen[mask.array] = True  # np.unique would sort every voxel
    present = [int(value) for value in np.flatnonzero(seen) if value]
    flags = [] if present else ["W-EMPTY-MASK: the mask holds no label, so there is nothing to measure"]
    if case.labels is None:
        labels = {"lesion": present[0]} if len(present) == 1 else {f"label_{value}": value for value in present}
        if present:
            flags.append(f"W-LABEL-UNNAMED: nothing names the mask's values; called {', '.join(labels)}")
    else:
        labels = dict(case.labels)
        unnamed = sorted(set(present) - set(labels.values()))
        if unnamed:
            flags.append(f"W-LABEL-UNNAMED: values that no label names were not measured: {_listed(unnamed)}")
    lesions = request.lesions if request.lesions is not None else tuple(n for n in labels if _LESION_WORDS.search(n))
    if not lesions and present:
        flags.append("W-NO-LESION-LABEL: no label was taken for a lesion, so none has calipers; see --lesions")
    return labels, lesions, flags


def _image(case: str, image: Path | None, dataset: Dataset | None, *, is_only: bool) -> Path | None:
    if image is None:
        found = next((known for known in dataset.cases if known.id == case), None) if dataset else None
        return None if found is None else found.images[0]
    require_path(image)
    if image.is_file():
        return image
    named = _image_named(image, case) or _image_named(image, f"{case}_0000")
    if named is None and not is_only:
        remedy = f"Name the images after the masks: {case}.nii.gz, or a DICOM folder {case}."
        raise InputError(
            "this folder has no image of the case", code="E-NO-IMAGE", file=image, case=case, remedy=remedy
        )
    return named or image


def _names_beside(mask: Path) -> Mapping[str, int] | None:
    """The labels in the JSON that `medseg infer` writes beside a mask."""
    path = mask.with_name(f"{mask_case(mask)}.json")
    if not path.is_file() or not {"labels", "volumes_ml"} <= read_json_object(path).keys():
        return None
    return read_document(path, CasePrediction).labels


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values[:10])) + (f" and {len(values) - 10} more" if len(values) > 10 else "")


def _image_named(folder: Path, name: str) -> Path | None:
    """A file, or a DICOM folder, of this name."""
    paths = (folder / f"{name}{suffix}" for suffix in (".nii.gz", *SUFFIXES, ""))
    return next((path for path in paths if path.exists()), None)
