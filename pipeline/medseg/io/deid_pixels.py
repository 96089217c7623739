"""Text in the pixels: found by what a header says, blanked where a rule says where it is, refused otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.deidentification import BurnedInRule, ProfileTable
from medseg.core.errors import InputError
from medseg.io.dicom_headers import texts, untrusted


def clean_pixels(data: Any, table: ProfileTable, path: Path, *, may_clean: bool) -> bool:
    """Blank the text in an image, when there may be some; whether anything was blanked.

    Raises:
        InputError: `E-DEID-PIXELS` when there may be text and nobody says where; `E-DICOM`.
    """
    if "PixelData" not in data or not _is_suspect(data, table):
        return False
    rule = next((rule for rule in table.burned_in if _fits(rule, data)), None)
    if not may_clean or rule is None:
        message = "there may be text in its pixels" + ("; no rule says where" if may_clean else "")
        raise InputError(
            message,
            code="E-DEID-PIXELS",
            file=path,
            remedy="Use --clean-pixels where a rule of configs/deidentify.yaml fits, or look at it and leave it out.",
        )
    with untrusted(path, "its pixels"):
        if data.file_meta.TransferSyntaxUID.is_compressed:
            data.decompress()
        _blank(data, rule, path)
    data.BurnedInAnnotation = "NO"
    return True


def _is_suspect(data: Any, table: ProfileTable) -> bool:
    stated = str(data.get("BurnedInAnnotation", "")).strip().upper()
    kinds = " ".join(texts(data, "ImageType")).upper().replace("_", " ")
    kind = str(data.get("SOPClassUID", ""))
    is_risky = (
        str(data.get("Modality", "")).upper() in table.risky_modalities
        or kind in table.risky_classes
        or kind.startswith(tuple(one for one in table.risky_classes if one.endswith(".")))
        or any(one in kinds for one in table.risky_image_types)
    )
    return stated == "YES" or (is_risky and stated != "NO")


def _fits(rule: BurnedInRule, data: Any) -> bool:
    return (
        str(data.get("Modality", "")).upper() == rule.modality
        and rule.manufacturer.lower() in str(data.get("Manufacturer", "")).lower()
        and rule.rows in {None, data.get("Rows")}
        and rule.columns in {None, data.get("Columns")}
        and (not rule.needs_regions or bool(data.get("SequenceOfUltrasoundRegions")))
    )


def _blank(data: Any, rule: BurnedInRule, path: Path) -> None:
    samples, bits = int(data.get("SamplesPerPixel", 1)), int(data.BitsAllocated)
    rows, columns, frames = int(data.Rows), int(data.Columns), int(data.get("NumberOfFrames", 1) or 1)
    size = rows * columns * frames * samples * bits // 8
    if bits % 8 or len(data.PixelData) < size:
        message = "its pixels are packed in a way that cannot be blanked"
        raise InputError(message, code="E-DEID-PIXELS", file=path, remedy="Convert it, or leave it out.")
    flat = np.frombuffer(bytes(data.PixelData)[:size], dtype=f"u{bits // 8}").copy()
    planar = samples > 1 and int(data.get("PlanarConfiguration", 0)) == 1
    image = flat.reshape((frames, samples, rows, columns) if planar else (frames, rows, columns, samples))
    kept = np.ones((rows, columns), dtype=bool)
    if rule.needs_regions:
        kept[:] = False
        for region in data.SequenceOfUltrasoundRegions:
            left, top = int(region.RegionLocationMinX0), int(region.RegionLocationMinY0)
            kept[
                max(top, 0) : int(region.RegionLocationMaxY1) + 1, max(left, 0) : int(region.RegionLocationMaxX1) + 1
            ] = True
    for west, north, east, south in rule.boxes:
        # towards the outside: half a letter is a letter
        kept[int(north * rows) : int(np.ceil(south * rows)), int(west * columns) : int(np.ceil(east * columns))] = False
    if planar:
        image[:, :, ~kept] = 0
    else:
        image[:, ~kept] = 0
    data.PixelData = flat.tobytes() + b"\0" * (len(flat.tobytes()) % 2)
