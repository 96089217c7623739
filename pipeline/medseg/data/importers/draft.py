"""What every format is turned into first, and the rules for names that all formats share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from medseg.core.case import Case, case_id
from medseg.core.errors import InputError, UsageError, case_context
from medseg.io.files import require_path
from medseg.io.formats import SUFFIXES

# A header stands for its .img; a DICOM file is one slice, so only its folder is an image.
_SUFFIXES = tuple(sorted(set(SUFFIXES) - {".img", ".img.gz", ".dcm", ".ima", ".dicom", ".zip"}, key=len, reverse=True))
TARGET = "target_"
_GAPS = ("", "na", "n/a", "none")
_LOOKED_AT = 20  # files of a folder
_MASK_WORDS = ("label", "mask", "seg", "annot", "oar", "gt", "roi", "truth", "contour", "reference")
_IMAGE_WORDS = ("image", "img", "scan", "volume", "vol", "ct", "mr", "mri", "pet", "us")
_MODALITIES = {
    "CT": ("ct", "cbct"),
    "PET": ("pet", "suv"),
    "US": ("us", "ultrasound"),
    "MRI": ("mri", "mr", "flair", "adc", "dwi", "swi", "t1", "t2", "t1w", "t2w", "t1c", "t1ce", "t1gd", "pd", "tof"),
}


@dataclass(frozen=True)
class Draft:
    """What a format tells of a dataset; what it leaves open is read from the files.

    Attributes:
        name: Of the dataset.
        cases: With absolute paths; classes in `Case.classes` by head.
        channels: Modality or sequence names as the source writes them; empty: unknown.
        labels: Name to mask value; empty: unknown.
        ignore_value: Mask value that neither teaches nor scores.
        description: Free text.
        licence: Free text.
        present: Values of the labels that a case's mask holds, as far as the source says so without its voxels.
    """

    name: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)
    ignore_value: int | None = None
    description: str = ""
    licence: str = ""
    present: dict[str, set[int]] = field(default_factory=dict)


def values_of(cells: Mapping[str, object]) -> dict[str, float]:
    """Numbers of the cells named `target_<name>`; empty ones and `NA` are left out.

    Raises:
        UsageError: `E-TABLE`, a cell that is no finite number.
    """
    return {
        key.removeprefix(TARGET): number_of(key, str(value))
        for key, value in cells.items()
        if key.startswith(TARGET) and not is_gap(value)
    }


def is_gap(value: object) -> bool:
    """Whether a cell says that nothing is known."""
    return value is None or str(value).strip().lower() in _GAPS


def number_of(name: str, cell: str) -> float:
    """A finite number.

    Raises:
        UsageError: `E-TABLE`.
    """
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    raise UsageError(
        f"{name}: {cell!r} is no finite number",
        code="E-TABLE",
        remedy="Write a number with a decimal point, and leave the cell empty where the value is not known.",
    )


def is_image(path: Path) -> bool:
    """A file in an image format, or a folder with DICOM objects, whatever their names, directly in it."""
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(_is_dicom(file) for file in islice(sorted(path.iterdir()), _LOOKED_AT))
    return path.name.lower().endswith(_SUFFIXES)


def _is_dicom(file: Path) -> bool:
    """By its suffix, or by the mark in its first bytes."""
    if not file.is_file() or file.suffix.lower() == ".dcm":
        return file.is_file()
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def holds_dicom_alone(path: Path) -> bool:
    """Whether a folder, with its sub-folders, has DICOM objects and no image in another format."""
    files = [file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")]
    if any(file.name.lower().endswith(_SUFFIXES) for file in files):
        return False
    return any(_is_dicom(file) for file in islice(sorted(files), _LOOKED_AT))


def images_in(folder: Path) -> list[Path]:
    """The images directly in `folder`, by name."""
    return sorted(path for path in folder.iterdir() if is_image(path))


def stem_of(path: Path) -> str:
    """File name without the image suffix."""
    suffix = next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def words_of(name: str) -> list[str]:
    """`PET_image` -> `pet`, `image`; also `brainMask` -> `brain`, `mask`."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", apart) if word]


def is_mask_name(name: str) -> bool:
    """Whether a file or folder name speaks of a reference segmentation; a brain mask is none."""
    words = words_of(name)
    if re.search(r"brain[\W_]*mask", name, re.IGNORECASE):
        return False
    return any(word == mask or word.startswith(mask) for word in words for mask in _MASK_WORDS)


def is_auxiliary_name(name: str) -> bool:
    """A mask of where the brain or body is: neither image nor reference."""
    return re.search(r"(brain|body)[\W_]*mask", name, re.IGNORECASE) is not None


def case_key(stem: str) -> str:
    """What is left of a file name without the words for image and mask: `brain1_image` -> `brain1`."""
    kept = [word for word in re.split(r"[_\-. ]+", stem) if not _is_role(word.lower())]
    return "_".join(kept)


def modality_of(name: str) -> str | None:
    """`FLAIR` -> `MRI`, `PET_image` -> `PET`; None when the name tells nothing."""
    for word in words_of(name):
        for modality, names in _MODALITIES.items():
            if word in names:
                return modality
    return None


def unique_ids(paths: Sequence[Path]) -> list[str]:
    """Ids from file names; where those repeat (every folder has its `image.nii.gz`), from folder names.

    Raises:
        UsageError: E-CASE-DUPLICATE when both repeat.
    """
    stems = [case_id(stem_of(path)) for path in paths]
    folders = [case_id(path.parent.name) for path in paths]
    both = [case_id(f"{folder}_{stem}") for folder, stem in zip(folders, stems, strict=True)]
    for ids in (stems, folders, both):
        if len(set(ids)) == len(ids):
            return ids
    raise UsageError(
        f"file and folder names repeat, so no case can be named, as in {paths[0]}",
        code="E-CASE-DUPLICATE",
        remedy="List the cases in a CSV with the columns case_id, image and label.",
    )


def require_files(cases: Iterable[Case]) -> None:
    """Refuse a case whose image or label does not exist."""
    for case in cases:
        with case_context(case.id):
            for path in (*case.images, *([case.label] if case.label else [])):
                require_path(path)


def not_understood(path: Path, found: str, remedy: str) -> InputError:
    return InputError(found, code="E-IMPORT", file=path, remedy=remedy)


def _is_role(word: str) -> bool:
    return word in _IMAGE_WORDS or any(word == mask or word in {f"{mask}s", f"{mask}mentation"} for mask in _MASK_WORDS)
