"""NRRD with attached or detached data: http://teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Affine, Shape, lps_to_ras
from medseg.io.decoded import ASSUME, Decoded, ReadOptions, require_dims
from medseg.io.detached import data_file
from medseg.io.header_fields import damaged, numbers_in, text_of, wholes_in
from medseg.io.streams import ByteStream, Codec, open_stream

MAGIC = b"NRRD000"
_HEADER_LIMIT = 1 << 20
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_CODECS: dict[str, Codec] = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
# Signs that turn each space's axes into LPS.
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
_MILLIMETRES_PER_UNIT = {"mm": 1.0, "": 1.0, "m": 1000.0, "cm": 10.0, "um": 0.001, "µm": 0.001, "micron": 0.001}
_COLOUR_KINDS = {"rgb-color", "rgba-color", "3-color", "4-color", "hsv-color", "xyz-color"}


def read_nrrd(path: Path, options: ReadOptions) -> Decoded:
    """Read one 3D image.

    Raises:
        InputError: `E-HEADER`, `E-DIMS`, `E-NDIM`, `E-RGB`, `E-DTYPE`, `E-ENCODING`, `E-PATH-ESCAPE`,
            `E-PAIR-MISSING`, and what the stream finds.
        GeometryError: `E-NO-ORIENTATION`, `E-SPACE-UNKNOWN`, `E-GEOM-NONFINITE`.
    """
    fields, data_start = _header(path)
    sizes, channel_axis = _sizes(fields, path, options)
    dtype = _dtype(fields, path)
    affine, warnings = _affine(fields, path, options)
    shape = require_dims([size for axis, size in enumerate(sizes) if axis != channel_axis], path)
    with data_file(fields.get("data file"), path) as data_path:
        offset = data_start if data_path == path else 0
        array, remarks = _voxels(fields, data_path, offset, dtype, sizes)
    if channel_axis is not None:
        array = np.moveaxis(array, channel_axis, 0)
    return Decoded(array.reshape((-1, *shape)) if channel_axis is not None else array, affine, (*warnings, *remarks))


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Fields in lower case, and where the data begin in an attached file."""
    with open_stream(path, codec="raw") as stream:
        head = stream.peek(_HEADER_LIMIT)
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start()] if end else head
    fields: dict[str, str] = {}
    for line in text.decode("utf-8", "replace").splitlines()[1:]:
        if line.startswith("#") or ":" not in line or ":=" in line:
            continue
        name, value = line.split(":", 1)
        fields[name.strip().lower()] = value.strip()
    fields.setdefault("data file", fields.pop("datafile", ""))
    if not fields["data file"]:
        del fields["data file"]
        if end is None:
            message = "its header does not end (no empty line)"
            raise damaged(message, path)
    return fields, end.end() if end else len(head)


def _sizes(fields: dict[str, str], path: Path, options: ReadOptions) -> tuple[list[int], int | None]:
    """Sizes in file order, and which axis holds channels when that was asked for."""
    sizes = wholes_in(text_of(fields, "sizes", path), "sizes", path)
    kinds = fields.get("kinds", "").lower().split()
    if _COLOUR_KINDS & set(kinds):
        raise InputError(
            "expected one number per voxel, found colours",
            code="E-RGB",
            file=path,
            remedy="Convert it to one real number per voxel.",
        )
    other = [axis for axis, kind in enumerate(kinds) if kind not in {"domain", "space", "time"}]
    directions = _vectors(fields.get("space directions", ""))
    other = [axis for axis, vector in enumerate(directions) if vector is None] or other
    if len(sizes) == 4 and len(other) == 1 and sizes[other[0]] == options.channels > 1:
        return sizes, other[0]
    require_dims(sizes, path)
    return sizes, None


def _dtype(fields: dict[str, str], path: Path) -> np.dtype[Any]:
    name = text_of(fields, "type", path).lower()
    if name not in _TYPES:
        raise InputError(
            "its number type (the field type) cannot be read",
            code="E-DTYPE",
            file=path,
            remedy="Convert it to short or float.",
        )
    return np.dtype((">" if fields.get("endian", "little").lower() == "big" else "<") + _TYPES[name])


def _vectors(text: str) -> list[str | None]:
    return [None if word == "none" else word for word in re.findall(r"none|\([^)]*\)", text)]


def _affine(fields: dict[str, str], path: Path, options: ReadOptions) -> tuple[Affine, tuple[str, ...]]:
    vectors = [vector for vector in _vectors(fields.get("space directions", "")) if vector is not None]
    space = fields.get("space", "").lower()
    if not space or not vectors:
        return _assumed(fields, path, options)
    if space not in _SPACES:
        raise GeometryError(
            "its space does not say where left, front and top are",
            code="E-SPACE-UNKNOWN",
            file=path,
            remedy="Save it with a space of left-posterior-superior or right-anterior-superior.",
        )
    rows = [numbers_in(re.sub(r"[(),]", " ", vector), "space directions", path) for vector in vectors]
    origin = numbers_in(re.sub(r"[(),]", " ", fields.get("space origin", "")), "space origin", path)
    if [len(row) for row in rows] != [3, 3, 3] or len(origin) != 3:
        message = f"three space directions and a space origin are needed, found {len(rows)} and {len(origin)} numbers"
        raise GeometryError(message, code="E-NO-ORIENTATION", file=path, remedy=ASSUME)
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    factor = _MILLIMETRES_PER_UNIT.get(units[0], 1.0) if units else 1.0
    affine = np.eye(4)
    affine[:3, :3] = np.array(rows).T * factor
    affine[:3, 3] = np.array(origin) * factor
    if not np.isfinite(affine).all():
        message = f"its space directions or origin hold {affine[:3].tolist()}"
        raise GeometryError(message, code="E-GEOM-NONFINITE", file=path, remedy="Convert it again from the original.")
    return lps_to_ras(np.diag([*_SPACES[space], 1.0]) @ affine), ("W-UNITS",) if factor != 1 else ()


def _assumed(fields: dict[str, str], path: Path, options: ReadOptions) -> tuple[Affine, tuple[str, ...]]:
    if not options.reading.assume_orientation:
        raise GeometryError(
            "its header says nothing about orientation (no space with space directions)",
            code="E-NO-ORIENTATION",
            file=path,
            remedy=ASSUME,
        )
    edges = numbers_in(fields.get("spacings", "1 1 1"), "spacings", path)[-3:]
    return np.diag([*edges, 1.0]), ("W-ORIENTATION-ASSUMED",)


def _voxels(
    fields: dict[str, str], path: Path, offset: int, dtype: np.dtype[Any], sizes: list[int]
) -> tuple[NDArray[Any], tuple[str, ...]]:
    encoding = fields.get("encoding", "raw").lower()
    count = int(np.prod(sizes, dtype=object))
    if encoding in {"ascii", "text", "txt"}:
        return _written_out(path, offset, dtype, count).reshape(sizes, order="F"), ()
    if encoding not in _CODECS:
        raise InputError("its encoding cannot be read", code="E-ENCODING", file=path, remedy="Save it as raw or gzip.")
    with open_stream(path, codec=_CODECS[encoding], offset=offset) as stream:
        stream.refuse_claim(count * dtype.itemsize)
        _skip(fields, stream, path)
        values = stream.array(dtype, count)
        remarks = stream.finish()
    if not dtype.isnative:
        values = values.astype(dtype.newbyteorder("="))
    return values.reshape(sizes, order="F"), remarks


def _skip(fields: dict[str, str], stream: ByteStream, path: Path) -> None:
    lines, size = (wholes_in(fields.get(name, "0"), name, path)[0] for name in ("line skip", "byte skip"))
    if lines or size < 0:
        message = "line skip and negative byte skip are not supported"
        raise InputError(message, code="E-ENCODING", file=path, remedy="Save it again with attached data.")
    stream.skip(size)


def _written_out(path: Path, offset: int, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    words = path.read_bytes()[offset:].split()
    if len(words) != count:
        message = f"expected {count} numbers, found {len(words)}"
        raise InputError(message, code="E-SHORT-DATA", file=path, remedy="Copy or download the file again.")
    return np.array(words).astype(np.float64).astype(dtype)


__all__ = ["MAGIC", "Shape", "read_nrrd"]
