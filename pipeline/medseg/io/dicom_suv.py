"""Standardised uptake value by body weight of a PET series.

SUVbw = activity concentration (Bq/ml) x body weight (g) / injected activity (Bq), both activities at one moment. The
way from the header to that moment follows the vendor-neutral pseudo-code of RSNA's QIBA FDG-PET/CT biomarker committee
("Standardized Uptake Value (SUV)", qibawiki.rsna.org); what it leaves open is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.io.dicom_headers import first_item, texts, untrusted
from medseg.io.dicom_planes import Plane

_WEIGHT_KG = (0.3, 500.0)
_DOSE_BQ = (1e4, 1e11)
_HALF_LIFE_S = (30.0, 1e6)
_MOST_HALF_LIVES = 10
_GE_SCAN_TIME = ("GEMS_PETD_01", 0x0009, 0x0D)
_PHILIPS_SUV = ("Philips PET Private Group", 0x7053, 0x00)
_PHILIPS_ACTIVITY = ("Philips PET Private Group", 0x7053, 0x09)
_REMEDY = "Read it without --suv, or take the series from the scanner again with the patient's data complete."


class _Tracer(NamedTuple):
    weight_g: float
    dose_bq: float
    half_life_s: float
    given_at: datetime

    def left_bq(self, moment: datetime, path: Path) -> float:
        """The injected activity, decayed to `moment`."""
        elapsed_s = (moment - self.given_at).total_seconds()
        if not 0 <= elapsed_s <= _MOST_HALF_LIVES * self.half_life_s:
            found = f"imaged {elapsed_s:g} s after the injection, half-life {self.half_life_s:g} s"
            raise _refusal(f"RadiopharmaceuticalStartTime does not fit the scan: {found}", path)
        return float(self.dose_bq * 0.5 ** (elapsed_s / self.half_life_s))


def to_suv(values: NDArray[Any], planes: Sequence[Plane]) -> NDArray[np.float32]:
    """Rescaled values (K, rows, columns) of a PET series as SUVbw (g/ml).

    Raises:
        InputError: `E-SUV`, naming the attribute that is missing or implausible.
    """
    with untrusted(planes[0].path, "its PET attributes"):
        factors = np.array(_factors(planes), dtype=np.float32)
    return np.asarray(np.multiply(values, factors[:, np.newaxis, np.newaxis], dtype=np.float32))


def _factors(planes: Sequence[Plane]) -> list[float]:
    """What each plane's values are multiplied with."""
    header, path = planes[0].file.header, planes[0].path
    units = _text(header, "Units", path)
    if units == "GML":
        kind = header.get("SUVType") or "BW"
        if kind != "BW":
            raise _refusal(f"SUVType is {kind}, expected BW", path)
        return [1.0] * len(planes)
    if units == "CNTS":
        direct = [_private(plane, _PHILIPS_SUV) for plane in planes]
        if all(direct):
            return [factor or 0.0 for factor in direct]
        to_activity = [_private(plane, _PHILIPS_ACTIVITY) for plane in planes]
        if not all(to_activity):
            raise _refusal("Units is CNTS and the factors of Philips (7053,xx00) and (7053,xx09) are missing", path)
        return [(first or 0.0) * second for first, second in zip(to_activity, _per_activity(planes), strict=True)]
    if units != "BQML":
        raise _refusal(f"Units is {units}, expected BQML, GML or CNTS", path)
    return _per_activity(planes)


def _per_activity(planes: Sequence[Plane]) -> list[float]:
    """SUV per Bq/ml of each plane."""
    header, path = planes[0].file.header, planes[0].path
    corrected = set(texts(header, "CorrectedImage"))
    correction = _text(header, "DecayCorrection", path)
    needed = {"ATTN"} if correction == "NONE" else {"ATTN", "DECY"}
    if not needed <= corrected:
        missing = ", ".join(sorted(needed - corrected))
        raise _refusal(f"CorrectedImage lacks {missing}", path)
    tracer = _tracer(planes)
    if correction == "ADMIN":
        return [tracer.weight_g / tracer.dose_bq] * len(planes)
    if correction == "START":
        return [tracer.weight_g / tracer.left_bq(_scan_start(planes, tracer.half_life_s), path)] * len(planes)
    if correction == "NONE":
        return [tracer.weight_g / _mean_left_bq(plane, tracer) for plane in planes]
    raise _refusal("DecayCorrection is another than expected: START, ADMIN or NONE", path)


def _tracer(planes: Sequence[Plane]) -> _Tracer:
    header, path = planes[0].file.header, planes[0].path
    drug = first_item(header, "RadiopharmaceuticalInformationSequence")
    if drug is None:
        raise _refusal("RadiopharmaceuticalInformationSequence is missing", path)
    weight_kg = _number(header, "PatientWeight", path, within=_WEIGHT_KG, unit="kg")
    dose_bq = _number(drug, "RadionuclideTotalDose", path, within=_DOSE_BQ, unit="Bq")
    half_life_s = _number(drug, "RadionuclideHalfLife", path, within=_HALF_LIFE_S, unit="s")
    return _Tracer(weight_kg * 1000, dose_bq, half_life_s, _given_at(drug, _first_acquisition(planes), path))


def _given_at(drug: Any, scanned: datetime, path: Path) -> datetime:
    """Moment of injection; a bare time is of the scan's day, or of the day before when that would be after the scan."""
    if drug.get("RadiopharmaceuticalStartDateTime"):
        return _moment("", str(drug.RadiopharmaceuticalStartDateTime), "RadiopharmaceuticalStartDateTime", path)
    time = _text(drug, "RadiopharmaceuticalStartTime", path)
    given = _moment(scanned.strftime("%Y%m%d"), time, "RadiopharmaceuticalStartTime", path)
    return given - timedelta(days=1) if given > scanned else given


def _first_acquisition(planes: Sequence[Plane]) -> datetime:
    return min(_when(plane.file.header, "Acquisition", plane.path) for plane in planes)


def _scan_start(planes: Sequence[Plane], half_life_s: float) -> datetime:
    """The moment to which DecayCorrection START refers.

    The series' own time, unless a slice was acquired before it (a series made later): then GE's scan time, else it is
    computed back from the slice's FrameReferenceTime, which counts from the moment we look for.
    """
    header, path = planes[0].file.header, planes[0].path
    series = _when(header, "Series", path)
    if series <= _first_acquisition(planes):
        return series
    ge = _private_value(header, _GE_SCAN_TIME)
    if ge:
        return _moment("", str(ge), "the scan time of GE (0009,xx0D)", path)
    reference_ms = _number(header, "FrameReferenceTime", path, within=(0.0, math.inf), unit="ms")
    duration_s = _number(header, "ActualFrameDuration", path, within=(1.0, math.inf), unit="ms") / 1000
    decay = math.log(2) / half_life_s
    # when within the frame the count rate is its mean
    average_s = math.log(decay * duration_s / -math.expm1(-decay * duration_s)) / decay
    return _when(header, "Acquisition", path) + timedelta(seconds=average_s - reference_ms / 1000)


def _mean_left_bq(plane: Plane, tracer: _Tracer) -> float:
    """The injected activity, decayed to a plane's acquisition and averaged over its duration."""
    header = plane.file.header
    duration_s = _number(header, "ActualFrameDuration", plane.path, within=(1.0, math.inf), unit="ms") / 1000
    decay_during = math.log(2) / tracer.half_life_s * duration_s
    at_start = tracer.left_bq(_when(header, "Acquisition", plane.path), plane.path)
    return at_start * -math.expm1(-decay_during) / decay_during


def _private(plane: Plane, place: tuple[str, int, int]) -> float | None:
    """A private number of this slice; None when it is missing or no positive number."""
    value = _private_value(plane.file.header, place)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _private_value(header: Any, place: tuple[str, int, int]) -> Any:
    creator, group, element = place
    try:
        value = header.private_block(group, creator)[element].value
    except KeyError:
        return None
    return value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else value


def _when(header: Any, which: str, path: Path) -> datetime:
    """`SeriesDate` and `SeriesTime`, `AcquisitionDate` and `AcquisitionTime` (or the one attribute of both)."""
    if header.get(f"{which}DateTime"):
        return _moment("", str(header.get(f"{which}DateTime")), f"{which}DateTime", path)
    return _moment(_text(header, f"{which}Date", path), _text(header, f"{which}Time", path), f"{which}Time", path)


def _moment(date: str, time: str, name: str, path: Path) -> datetime:
    """Date and time as DICOM writes them; what follows the seconds' fraction (an offset) is the same for all."""
    text = (date + time).replace(":", "").partition("+")[0].partition("-")[0]
    whole, _, fraction = text.partition(".")
    try:
        moment = datetime.strptime(whole.ljust(14, "0")[:14], "%Y%m%d%H%M%S")
        return moment + timedelta(seconds=float(f"0.{fraction or 0}"))
    except ValueError:
        raise _refusal(f"{name} is no date and time", path) from None


def _text(header: Any, name: str, path: Path) -> str:
    text = str(header.get(name) or "").strip()
    if not text:
        raise _refusal(f"{name} is missing", path)
    return text


def _number(header: Any, name: str, path: Path, *, within: tuple[float, float], unit: str) -> float:
    value = header.get(name)
    if value in {None, ""}:
        raise _refusal(f"{name} is missing", path)
    number = float(value)
    if not within[0] <= number <= within[1]:
        raise _refusal(f"{name} is {number:g} {unit}, expected {within[0]:g} to {within[1]:g} {unit}", path)
    return number


def _refusal(message: str, path: Path) -> InputError:
    return InputError(message, code="E-SUV", file=path, remedy=_REMEDY)
