"""MetaImage, .mha and .mhd: https://itk.org/Wiki/ITK/MetaIO/Documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Affine, lps_to_ras
from medseg.io.decoded import ASSUME, Decoded, ReadOptions, require_dims
from medseg.io.detached import data_file
from medseg.io.header_fields import damaged, numbers_in, text_of, wholes_in
from medseg.io.streams import open_stream

_HEADER_LIMIT = 1 << 16
_DATA_KEY = re.compile(rb"^\s*ElementDataFile\s*=\s*([^\r\n]*)\r?\n?", re.MULTILINE | re.IGNORECASE)
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def is_metaimage(head: bytes) -> bool:
    """Whether a file begins with one of the two keys that a MetaImage begins with."""
    return re.match(rb"\s*(ObjectType|NDims)\s*=", head, re.IGNORECASE) is not None


def read_metaimage(path: Path, options: ReadOptions) -> Decoded:
    """Read one 3D image.

    Raises:
        InputError: `E-HEADER`, `E-DIMS`, `E-NDIM`, `E-RGB`, `E-DTYPE`, `E-PATH-ESCAPE`, `E-PAIR-MISSING`, and what the
            stream finds.
        GeometryError: `E-NO-ORIENTATION`, `E-GEOM-NONFINITE`.
    """
    fields, data_name, data_start = _header(path)
    shape = require_dims(wholes_in(text_of(fields, "dimsize", path), "dimsize", path), path)
    channels = _channels(fields, path, options)
    dtype = _dtype(fields, path)
    is_attached = data_name.upper() == "LOCAL"
    count = shape[0] * shape[1] * shape[2] * channels
    offset = data_start if is_attached else 0
    is_packed = fields.get("compresseddata", "false").lower() == "true"
    with (
        data_file(None if is_attached else data_name, path) as data_path,
        open_stream(data_path, codec="zlib" if is_packed else "raw", offset=offset) as data,
    ):
        data.refuse_claim(count * dtype.itemsize)
        skipped = wholes_in(fields.get("headersize", "0"), "headersize", path)[0]
        if skipped < -1:
            message = f"HeaderSize must be -1 or more, found {skipped}"
            raise damaged(message, path)
        # -1: the data are the file's last bytes
        data.skip(max(0, data.size - count * dtype.itemsize) if skipped == -1 else skipped)
        values = data.array(dtype, count)
        remarks = data.finish()
    affine, warnings = _affine(fields, path, options)
    if not dtype.isnative:
        values = values.astype(dtype.newbyteorder("="))
    array = values.reshape((channels, *shape) if channels > 1 else shape, order="F")
    return Decoded(array, affine, (*warnings, *remarks))


def _header(path: Path) -> tuple[dict[str, str], str, int]:
    """Fields in lower case, the name of the data file, and where attached data begin."""
    with open_stream(path, codec="raw") as stream:
        head = stream.peek(_HEADER_LIMIT)
    end = _DATA_KEY.search(head)
    if end is None:
        message = "its header lacks ElementDataFile"
        raise damaged(message, path)
    lines = head[: end.start()].decode("utf-8", "replace").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    fields = {name.strip().lower(): value.strip() for name, value in pairs}
    return fields, end.group(1).decode("utf-8", "replace").strip(), end.end()


def _channels(fields: dict[str, str], path: Path, options: ReadOptions) -> int:
    channels = wholes_in(fields.get("elementnumberofchannels", "1"), "elementnumberofchannels", path)[0]
    if channels not in {1, options.channels}:
        raise InputError(
            f"expected one number per voxel, found {channels}",
            code="E-RGB" if channels in {3, 4} else "E-NDIM",
            file=path,
            remedy="Convert it to one real number per voxel, or split it into one file per channel.",
        )
    return channels


def _dtype(fields: dict[str, str], path: Path) -> np.dtype[Any]:
    name = fields.get("elementtype", "").upper()
    if name not in _TYPES:
        raise InputError(
            "its number type (ElementType) cannot be read",
            code="E-DTYPE",
            file=path,
            remedy="Convert it to MET_SHORT or MET_FLOAT.",
        )
    swapped = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "false")).lower()
    return np.dtype((">" if swapped == "true" else "<") + _TYPES[name])


def _affine(fields: dict[str, str], path: Path, options: ReadOptions) -> tuple[Affine, tuple[str, ...]]:
    """TransformMatrix holds the direction of the first axis, then the second, then the third, in LPS."""
    spacing = np.array(
        numbers_in(fields.get("elementspacing", fields.get("elementsize", "1 1 1")), "elementspacing", path)
    )
    matrix = next((fields[name] for name in ("transformmatrix", "rotation", "orientation") if name in fields), None)
    if matrix is None:
        if not options.reading.assume_orientation:
            raise GeometryError(
                "its header says nothing about orientation (no TransformMatrix)",
                code="E-NO-ORIENTATION",
                file=path,
                remedy=ASSUME,
            )
        if spacing.size != 3:
            message = f"ElementSpacing needs 3 numbers, found {spacing.size}"
            raise InputError(message, code="E-HEADER", file=path, remedy="Convert it again.")
        return np.diag([*spacing, 1.0]), ("W-ORIENTATION-ASSUMED",)
    directions = np.array(numbers_in(matrix, "transformmatrix", path))
    name = next((key for key in ("offset", "position", "origin") if key in fields), "offset")
    offset = np.array(numbers_in(text_of(fields, name, path), name, path))
    if directions.size != 9 or offset.size != 3 or spacing.size != 3:
        message = f"TransformMatrix, Offset and ElementSpacing need 9, 3 and 3 numbers, found {directions.size}, "
        raise InputError(
            f"{message}{offset.size} and {spacing.size}", code="E-HEADER", file=path, remedy="Convert it again."
        )
    affine = np.eye(4)
    affine[:3, :3] = directions.reshape(3, 3).T * spacing
    affine[:3, 3] = offset
    if not np.isfinite(affine).all():
        message = f"its transform holds {affine[:3].tolist()}"
        raise GeometryError(message, code="E-GEOM-NONFINITE", file=path, remedy="Convert it again from the original.")
    return lps_to_ras(affine), ()
