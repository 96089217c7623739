"""The masks of a folder by case, whatever formats `medseg infer` or another tool wrote them in."""

from __future__ import annotations

from pathlib import Path

from medseg.core.case import case_id
from medseg.core.errors import InputError
from medseg.core.outputs import SUFFIX_OF
from medseg.io.files import require_path
from medseg.io.formats import SUFFIXES

# the first that is there is taken
_OBJECTS = (SUFFIX_OF["seg-nrrd"], SUFFIX_OF["dicom-seg"], SUFFIX_OF["dicom-rtstruct"])
_REPORT = SUFFIX_OF["dicom-sr"]
# A header stands for its .img; longest first, that .nii.gz is not .gz.
_MASK_SUFFIXES = tuple(sorted({*SUFFIXES, *_OBJECTS} - {".img", ".img.gz", ".zip"}, key=len, reverse=True))


def masks_in(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The mask files directly in a folder, by the case id that their name stands for.

    `CASE.seg.nrrd`, `CASE.seg.dcm` and `CASE.rtstruct.dcm` say again what `CASE.nii.gz` says, and count where no such
    file is; a report, `CASE.sr.dcm`, is no mask.

    Raises:
        InputError: E-NOT-A-FOLDER, or as `require_path`.
    """
    require_path(folder)
    if not folder.is_dir():
        raise InputError("expected a folder of masks", code="E-NOT-A-FOLDER", file=folder, remedy="Name their folder.")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        suffix = _suffix(path)
        if suffix and path.is_file() and not path.name.startswith("."):
            found.setdefault(mask_case(path), []).append(path)
    return {name: _chosen(paths) for name, paths in found.items()}


def mask_case(path: Path) -> str:
    """The case that a mask file is of: its name without the suffix, `.seg.dcm` as a whole."""
    return case_id(path.name[: len(path.name) - len(_suffix(path))])


def _suffix(path: Path) -> str:
    lower = path.name.lower()
    if lower.endswith(_REPORT):
        return ""
    return next((suffix for suffix in _MASK_SUFFIXES if lower.endswith(suffix)), "")


def _chosen(paths: list[Path]) -> tuple[Path, ...]:
    if voxels := [path for path in paths if not path.name.lower().endswith(_OBJECTS)]:
        return tuple(voxels)
    return tuple(next(mine for end in _OBJECTS if (mine := [p for p in paths if p.name.lower().endswith(end)])))
