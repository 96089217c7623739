"""A DICOM series becomes a volume: its slices in order, in the modality's units, on a straight, even grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.core.geometry import lps_to_ras
from medseg.core.volume import SUV
from medseg.io.decoded import Decoded, ReadOptions
from medseg.io.dicom_outliers import strange_slices
from medseg.io.dicom_pixels import decode_planes
from medseg.io.dicom_planes import Plane
from medseg.io.dicom_repair import straighten
from medseg.io.dicom_series import chosen_planes
from medseg.io.dicom_stack import affine_lps, require_even
from medseg.io.dicom_suv import to_suv

# PS3.3 C.8.9.1.1.3: other text of the header may be anything, and the unit is written beside measurements
_PET_UNITS = {
    *("CNTS", "NONE", "CM2", "CM2ML", "PCNT", "CPS", "BQML", "MGMINML", "UMOLMINML", "MLMING", "MLG", "1CM", "UMOLML"),
    *("PROPCNTS", "PROPCPS", "MLMINML", "MLML", "GML", "STDDEV"),
}


def decode_series(path: Path, options: ReadOptions) -> Decoded:
    """Find, choose, order and decode; the checks of values and of the grid come after.

    Raises:
        InputError: As `chosen_planes`, `decode_planes` and `to_suv`.
        GeometryError: `E-SERIES-GAP`, `E-SERIES-SPACING`, and as `chosen_planes`.
    """
    planes, remarks = chosen_planes(path, options.reading)
    if not options.reading.fix_geometry and len(planes) > 1:
        require_even(planes, path)
    values, decoding = decode_planes(planes)
    remarks = (*remarks, *decoding, *strange_slices(values))
    unit = _unit(planes)
    if options.reading.suv and planes[0].modality == "PT":
        values, unit = to_suv(values, planes), SUV
    if options.reading.fix_geometry:
        values, affine, repairs = straighten(values, planes, path)
    else:
        affine, repairs = affine_lps(planes, path)
    return Decoded(values.transpose(2, 1, 0), lps_to_ras(affine), (*remarks, *repairs), unit, planes[0].modality)


def _unit(planes: Sequence[Plane]) -> str | None:
    """What the header says of the rescaled values."""
    header = planes[0].file.header
    if planes[0].modality == "PT":
        units = str(header.get("Units") or "")
        return units if units in _PET_UNITS else None
    if planes[0].modality == "CT" and all(plane.rescale for plane in planes):
        return "HU" if header.get("RescaleType", "HU") == "HU" else None
    return None
