"""NIfTI-1, NIfTI-2, their header/image pairs, and Analyze 7.5, read from the bytes.

Field offsets: nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.core.geometry import Shape
from medseg.io.decoded import Decoded, ReadOptions, require_dims
from medseg.io.files import require_file, require_path
from medseg.io.nifti_affine import choose_affine
from medseg.io.streams import ByteStream, open_stream


def _layout(size: int, fields: dict[str, tuple[str, int]]) -> dict[str, np.dtype[Any]]:
    """A header's dtype, by byte order.

    Made once: NumPy reads "8i2" with `ast.literal_eval`, which now and then fails in threads (CPython issue 106905).
    """
    formats, offsets = zip(*fields.values(), strict=True)
    layout = np.dtype({"names": [*fields], "formats": [*formats], "offsets": [*offsets], "itemsize": size})
    return {order: layout.newbyteorder(order) for order in ("<", ">")}


_NIFTI_1 = _layout(
    348,
    {
        "sizeof_hdr": ("i4", 0),
        "dim": ("8i2", 40),
        "datatype": ("i2", 70),
        "bitpix": ("i2", 72),
        "pixdim": ("8f4", 76),
        "vox_offset": ("f4", 108),
        "scl_slope": ("f4", 112),
        "scl_inter": ("f4", 116),
        "xyzt_units": ("u1", 123),
        "qform_code": ("i2", 252),
        "sform_code": ("i2", 254),
        "quatern": ("3f4", 256),
        "qoffset": ("3f4", 268),
        "srow": ("(3,4)f4", 280),
        "magic": ("S4", 344),
    },
)
_NIFTI_2 = _layout(
    540,
    {
        "sizeof_hdr": ("i4", 0),
        "dim": ("8i8", 16),
        "datatype": ("i2", 12),
        "bitpix": ("i2", 14),
        "pixdim": ("8f8", 104),
        "vox_offset": ("i8", 168),
        "scl_slope": ("f8", 176),
        "scl_inter": ("f8", 184),
        "xyzt_units": ("i4", 500),
        "qform_code": ("i4", 344),
        "sform_code": ("i4", 348),
        "quatern": ("3f8", 352),
        "qoffset": ("3f8", 376),
        "srow": ("(3,4)f8", 400),
        "magic": ("S4", 4),
    },
)
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED_DTYPES = {
    32: ("E-COMPLEX", "complex numbers"),
    1792: ("E-COMPLEX", "complex numbers"),
    2048: ("E-COMPLEX", "complex numbers"),
    128: ("E-RGB", "colours (RGB)"),
    2304: ("E-RGB", "colours (RGBA)"),
}
_MAGICS = {b"n+1", b"ni1", b"n+2", b"ni2"}
_HEADER_BYTES = 544
_RECOPY = "The header is damaged: copy or convert the file again."


class _Header(NamedTuple):
    fields: Any
    path: Path
    version: int
    order: str
    paired: bool
    warnings: tuple[str, ...]


def is_nifti(head: bytes) -> bool:
    """Whether the first 348 bytes carry a NIfTI-1 or NIfTI-2 magic."""
    return head[344:348] in {b"n+1\0", b"ni1\0"} or head[4:8] in {b"n+2\0", b"ni2\0"}


def looks_like_header(head: bytes) -> bool:
    """Whether the first bytes have the length field of a NIfTI or Analyze header, magic or not."""
    return head[:4] in {(size).to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}


def read_nifti(path: Path, options: ReadOptions) -> Decoded:
    """Read a single file, or a pair given by either of its two names.

    Raises:
        InputError: `E-MAGIC`, `E-DIMS`, `E-NDIM`, `E-DTYPE`, `E-COMPLEX`, `E-RGB`, `E-VOX-OFFSET`, `E-SCALE`,
            `E-PAIR-MISSING`, and what the stream finds.
        GeometryError: `E-NO-ORIENTATION`, `E-GEOM-CONFLICT`, `E-GEOM-QUATERN`, `E-GEOM-NONFINITE`, `E-SPACING`.
    """
    header_path, data_path = _pair(path)
    with open_stream(header_path) as stream:
        header = _parse(stream.peek(_HEADER_BYTES), header_path)
        if not header.paired:
            return _finish(header, stream, options)
        stream.finish()
    if data_path is None:
        raise InputError(
            "holds the header of a pair (magic ni1)", code="E-MAGIC", file=path, remedy="Keep it as .hdr with its .img."
        )
    with open_stream(require_file(data_path)) as stream:
        return _finish(header, stream, options)


def _pair(path: Path) -> tuple[Path, Path | None]:
    """Header and image file of an .hdr/.img pair; the same file and None for a single file."""
    name = path.name
    for mine, other in ((".hdr", ".img"), (".img", ".hdr")):
        for packed in ("", ".gz"):
            if name.lower().endswith(mine + packed):
                stem, written = name[: -len(mine + packed)], name[-len(mine + packed) :]
                twin_suffix = other.upper() if written[:4].isupper() else other
                twins = [path.with_name(stem + twin_suffix + end) for end in ("", ".gz")]
                twin = next((candidate for candidate in twins if _is_there(candidate)), None)
                if twin is None:
                    raise InputError(
                        f"its other half {twins[0].name} is missing",
                        code="E-PAIR-MISSING",
                        file=path,
                        remedy="Put the .hdr and the .img of the pair into one folder.",
                    )
                return (path, twin) if mine == ".hdr" else (require_file(twin), path)
    return path, None


def _is_there(path: Path) -> bool:
    try:
        require_path(path)
    except InputError as error:
        return error.code not in {"E-NOT-FOUND", "E-PATH-TOO-LONG"}
    return True


def _parse(head: bytes, path: Path) -> _Header:
    if len(head) < 348:
        message = f"expected a header of 348 bytes, found {len(head)}"
        raise InputError(message, code="E-SHORT-DATA", file=path, remedy=_RECOPY)
    version = 2 if head[4:8] in {b"n+2\0", b"ni2\0"} else 1
    layouts = _NIFTI_2 if version == 2 else _NIFTI_1
    size = layouts["<"].itemsize
    order = next((order for order in "<>" if np.frombuffer(head, f"{order}i4", 1)[0] == size), None)
    warnings = () if order else ("W-HDR",)
    if order is None:
        start, kind = (16, "i8") if version == 2 else (40, "i2")
        order = next((o for o in "<>" if 1 <= np.frombuffer(head, o + kind, 1, start)[0] <= 7), "<")
    if len(head) < size:
        raise InputError(
            f"expected a header of {size} bytes, found {len(head)}", code="E-SHORT-DATA", file=path, remedy=_RECOPY
        )
    fields = np.frombuffer(head, layouts[order], 1)[0].copy()
    magic = bytes(fields["magic"])
    is_pair_name = path.name.lower().endswith((".hdr", ".hdr.gz"))
    if magic not in _MAGICS and not is_pair_name:
        message = f"expected the magic n+1 in its header, found {magic!r}"
        raise InputError(message, code="E-MAGIC", file=path, remedy=_RECOPY)
    if magic not in _MAGICS:
        for name in ("qform_code", "sform_code", "scl_slope", "scl_inter", "xyzt_units"):
            fields[name] = 0
    if _is_extension_broken(head, fields, order):
        warnings = (*warnings, "W-EXTENSION")
    return _Header(fields, path, version, order, is_pair_name or magic in {b"ni1", b"ni2"}, warnings)


def _is_extension_broken(head: bytes, fields: Any, order: str) -> bool:
    """Whether a header extension claims more room than lies before the voxels; its text is never looked at."""
    room = float(fields["vox_offset"]) - 352
    if head[344:348] != b"n+1\0" or len(head) < 356 or not head[348] or not room > 0:
        return False
    return not 8 <= int(np.frombuffer(head, f"{order}i4", 1, 352)[0]) <= room


def _finish(header: _Header, stream: ByteStream, options: ReadOptions) -> Decoded:
    shape, channels, channel_axis = _shape(header, options)
    dtype = _dtype(header)
    warnings = list(header.warnings)
    if int(header.fields["bitpix"]) != dtype.itemsize * 8:
        warnings.append("W-HDR")
    affine, remarks = choose_affine(header.fields, shape, header.path, options)
    warnings.extend(remarks)
    slope, intercept, remarks = _scaling(header)
    warnings.extend(remarks)
    count = shape[0] * shape[1] * shape[2] * channels
    stream.refuse_claim(count * dtype.itemsize)
    _skip_to_data(header, stream)
    values = stream.array(dtype, count)
    if not dtype.isnative:
        values = values.astype(dtype.newbyteorder("="))
    warnings.extend(stream.finish())
    array = values.reshape((*shape, channels) if channel_axis else shape, order="F")
    if channel_axis:
        array = np.moveaxis(array, -1, 0)
    return Decoded(_scaled(array, slope, intercept), affine, tuple(dict.fromkeys(warnings)))


def _shape(header: _Header, options: ReadOptions) -> tuple[Shape, int, bool]:
    """The grid, the number of channels, and whether the array has an axis for them."""
    dim = [int(size) for size in header.fields["dim"]]
    if not 1 <= dim[0] <= 7:
        message = f"the number of dimensions must be 1 to 7, found {dim[0]}"
        raise InputError(message, code="E-DIMS", file=header.path, remedy=_RECOPY)
    sizes = dim[1 : dim[0] + 1]
    if math.prod(sizes) >= 1 << 63:
        message = f"dimensions {sizes} are more than any file can hold"
        raise InputError(message, code="E-DIMS", file=header.path, remedy=_RECOPY)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    extra = [size for size in sizes[3:] if size != 1]
    if len(extra) == 1 and extra[0] == options.channels > 1:
        return require_dims(sizes[:3], header.path), extra[0], True
    return require_dims(sizes, header.path), 1, False


def _dtype(header: _Header) -> np.dtype[Any]:
    code = int(header.fields["datatype"])
    if code in _REFUSED_DTYPES:
        error_code, found = _REFUSED_DTYPES[code]
        remedy = "Convert it to one real number per voxel."
        raise InputError(f"expected real numbers, found {found}", code=error_code, file=header.path, remedy=remedy)
    if code not in _DTYPES:
        raise InputError(
            f"its number type (NIfTI code {code}) cannot be read",
            code="E-DTYPE",
            file=header.path,
            remedy="Convert it to int16 or float32.",
        )
    return np.dtype(header.order + _DTYPES[code])


def _scaling(header: _Header) -> tuple[float, float, tuple[str, ...]]:
    """Slope and intercept; a slope of 0 or not finite means that the values are stored as they are."""
    slope, intercept = float(header.fields["scl_slope"]), float(header.fields["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0, ("W-SCALE",) if not (slope == 0 and intercept == 0) and not _unset(slope, intercept) else ()
    if not np.isfinite(intercept):
        message = f"its scaling is {slope} x value + {intercept}"
        raise InputError(message, code="E-SCALE", file=header.path, remedy="Convert it again from the original.")
    return slope, intercept, ()


def _unset(slope: float, intercept: float) -> bool:
    """Both NaN: how nibabel writes that no scaling was chosen."""
    return bool(np.isnan(slope) and np.isnan(intercept))


def _skip_to_data(header: _Header, stream: ByteStream) -> None:
    offset = float(header.fields["vox_offset"])
    smallest = 0 if header.paired else {1: 352, 2: 544}[header.version]
    if not np.isfinite(offset) or offset < smallest or offset % 4:
        message = f"voxels must begin at byte {smallest} or a later multiple of 4, its header says {offset:g}"
        raise InputError(message, code="E-VOX-OFFSET", file=header.path, remedy=_RECOPY)
    if stream.skip(int(offset)) < offset:
        message = f"voxels should begin at byte {offset:g}, which lies behind the end of the file"
        raise InputError(message, code="E-VOX-OFFSET", file=header.path, remedy=_RECOPY)


def _scaled(array: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Values in the modality's units: the stored numbers when the scaling is 1 and 0, float32 otherwise."""
    if slope == 1 and intercept == 0:
        return array
    result = np.empty(array.shape, np.float32, order="F")
    for target, plane in zip(result.T, array.T, strict=True):
        target[...] = plane * np.float64(slope) + np.float64(intercept)
    return result
