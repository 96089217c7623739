"""Images and masks to files: written beside the target, read back, compared, then put in place in one step."""

from __future__ import annotations

import colorsys
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry, lps_to_ras
from medseg.io.decoded import Decoded
from medseg.io.files import atomic_path

_NIFTI_CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}
_NRRD_TYPES = {
    "u1": "uint8",
    "i1": "int8",
    "u2": "uint16",
    "i2": "int16",
    "u4": "uint32",
    "i4": "int32",
    "u8": "uint64",
    "i8": "int64",
    "f4": "float",
    "f8": "double",
}
_META_TYPES = {
    "u1": "MET_UCHAR",
    "i1": "MET_CHAR",
    "u2": "MET_USHORT",
    "i2": "MET_SHORT",
    "u4": "MET_UINT",
    "i4": "MET_INT",
    "u8": "MET_ULONG_LONG",
    "i8": "MET_LONG_LONG",
    "f4": "MET_FLOAT",
    "f8": "MET_DOUBLE",
}
_COMPRESSION = 3
_LARGEST_NIFTI_SIZE = 32767
_READ_BACK_MM = 1e-2
_GOLDEN_ANGLE = 0.381966


def write_image(array: NDArray[Any], geometry: Geometry, path: Path, *, verify: Callable[[Path], Decoded]) -> None:
    """Write (I, J, K) or (C, I, J, K).

    Raises:
        InputError: `E-SUFFIX`, `E-DIMS`, `E-NOT-WRITABLE`, `E-DISK-FULL` or `E-READ-BACK`.
    """
    _write(array, geometry, path, names={}, verify=verify)


def write_mask(
    array: NDArray[Any],
    geometry: Geometry,
    path: Path,
    *,
    names: dict[str, int] | None,
    verify: Callable[[Path], Decoded],
) -> None:
    """Write (I, J, K) labels; `.seg.nrrd` keeps each as a named, coloured segment.

    Raises:
        InputError: As `write_image`.
    """
    present = [int(value) for value in np.unique(array) if value]
    named = names or {f"label {value}": value for value in present}
    smallest = np.min_scalar_type(max(present, default=0))
    _write(array.astype(smallest), geometry, path, names=named, verify=verify)


def _write(
    array: NDArray[Any], geometry: Geometry, path: Path, *, names: dict[str, int], verify: Callable[[Path], Decoded]
) -> None:
    array = _storable(array)
    lower = path.name.lower()
    if lower.endswith((".nii", ".nii.gz")):
        parts = _nifti(array, geometry, path)
    elif lower.endswith(".nrrd"):
        parts = _nrrd(array, geometry, names if lower.endswith(".seg.nrrd") else {})
    elif lower.endswith(".mha"):
        parts = _metaimage(array, geometry)
    else:
        message = f"the suffix of {path.name!r} names no format that is written"
        raise InputError(message, code="E-SUFFIX", file=path, remedy="Use .nii.gz, .nii, .nrrd, .seg.nrrd or .mha.")
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            if lower.endswith(".gz"):
                # neither name nor time: the same mask is the same file
                with gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as packed:
                    packed.writelines(parts)
            else:
                file.writelines(parts)
        _require_equal(verify(temporary), array, geometry, path)


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    """Little-endian numbers of a type that every format has."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype.kind}{array.dtype.itemsize}"


def _bytes(array: NDArray[Any]) -> Any:
    return array.ravel(order="F").view(np.uint8).data


def _nifti(array: NDArray[Any], geometry: Geometry, path: Path) -> tuple[Any, ...]:
    """NIfTI-1 with the geometry as sform and as qform, both with code 1 (scanner)."""
    if max(array.shape) > _LARGEST_NIFTI_SIZE:
        message = f"NIfTI-1 holds up to {_LARGEST_NIFTI_SIZE} voxels along an axis, found {array.shape}"
        raise InputError(message, code="E-DIMS", file=path, remedy="Write it as .nrrd.")
    array = np.moveaxis(array, 0, -1) if array.ndim == 4 else array
    quaternion, handedness = _quaternion(geometry)
    header = bytearray(352)

    def put(offset: int, kind: str, values: Any) -> None:
        data = np.asarray(values, dtype=f"<{kind}").tobytes()
        header[offset : offset + len(data)] = data

    put(0, "i4", 348)
    put(40, "i2", [array.ndim, *array.shape, *[1] * (7 - array.ndim)])
    put(70, "i2", [_NIFTI_CODES[_kind(array)], array.dtype.itemsize * 8])
    put(76, "f4", [handedness, *geometry.spacing_mm, 1, 0, 0, 0])
    put(108, "f4", [352, 1, 0])
    header[123] = 2
    put(252, "i2", [1, 1])
    put(256, "f4", [*quaternion, *geometry.affine[:3, 3]])
    put(280, "f4", geometry.affine[:3])
    header[344:348] = b"n+1\0"
    return bytes(header), _bytes(array)


def _quaternion(geometry: Geometry) -> tuple[NDArray[np.float64], float]:
    """(b, c, d) of the rotation and qfac: the eigenvector of Bar-Itzhack's symmetric matrix (J. Guid. Control 2000)."""
    rotation = geometry.direction.copy()
    handedness = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation[:, 2] *= handedness
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = (
        np.array(
            [
                [xx + yy + zz, zy - yz, xz - zx, yx - xy],
                [zy - yz, xx - yy - zz, xy + yx, xz + zx],
                [xz - zx, xy + yx, yy - xx - zz, yz + zy],
                [yx - xy, xz + zx, yz + zy, zz - xx - yy],
            ]
        )
        / 3
    )
    quaternion = np.linalg.eigh(symmetric)[1][:, -1]
    return np.asarray(quaternion[1:] * (1.0 if quaternion[0] >= 0 else -1.0)), handedness


def _nrrd(array: NDArray[Any], geometry: Geometry, names: dict[str, int]) -> tuple[Any, ...]:
    affine = lps_to_ras(geometry.affine)
    vectors = " ".join(_vector(affine[:3, axis]) for axis in range(3))
    is_multi = array.ndim == 4
    lines = [
        "NRRD0005",
        f"type: {_NRRD_TYPES[_kind(array)]}",
        f"dimension: {array.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, array.shape))}",
        f"space directions: {'none ' if is_multi else ''}{vectors}",
        f"kinds: {'vector ' if is_multi else ''}domain domain domain",
        "endian: little",
        "encoding: gzip",
        'space units: "mm" "mm" "mm"',
        f"space origin: {_vector(affine[:3, 3])}",
        *_segments(array, names),
    ]
    return ("\n".join(lines) + "\n\n").encode(), gzip.compress(_bytes(array), _COMPRESSION, mtime=0)


def _segments(array: NDArray[Any], names: dict[str, int]) -> list[str]:
    """3D Slicer's fields: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html."""
    if not names:
        return []
    extent = " ".join(f"0 {size - 1}" for size in array.shape)
    lines = [
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
    ]
    for index, (name, value) in enumerate(sorted(names.items(), key=lambda item: item[1])):
        colour = colorsys.hsv_to_rgb((value * _GOLDEN_ANGLE) % 1, 0.65, 0.95)
        lines += [
            f"Segment{index}_ID:=Segment_{value}",
            f"Segment{index}_Name:={' '.join(name.split())}",
            f"Segment{index}_Color:={' '.join(f'{part:.4f}' for part in colour)}",
            f"Segment{index}_LabelValue:={value}",
            f"Segment{index}_Layer:=0",
            f"Segment{index}_Extent:={extent}",
        ]
    return lines


def _metaimage(array: NDArray[Any], geometry: Geometry) -> tuple[Any, ...]:
    affine = lps_to_ras(geometry.affine)
    directions = affine[:3, :3] / np.asarray(geometry.spacing_mm)
    packed = zlib.compress(_bytes(array), _COMPRESSION)
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {len(packed)}",
        f"TransformMatrix = {_row(directions.T.ravel())}",
        f"Offset = {_row(affine[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_row(geometry.spacing_mm)}",
        f"DimSize = {' '.join(map(str, geometry.shape))}",
        *([f"ElementNumberOfChannels = {len(array)}"] if array.ndim == 4 else []),
        f"ElementType = {_META_TYPES[_kind(array)]}",
        "ElementDataFile = LOCAL",
    ]
    return ("\n".join(lines) + "\n").encode(), packed


def _row(numbers: Any) -> str:
    return " ".join(repr(float(number)) for number in numbers)


def _vector(numbers: Any) -> str:
    return f"({','.join(repr(float(number)) for number in numbers)})"


def _require_equal(read: Decoded, array: NDArray[Any], geometry: Geometry, path: Path) -> None:
    moved_mm = Geometry(geometry.shape, read.affine).deviation_mm(geometry)
    if read.array.shape == array.shape and moved_mm < _READ_BACK_MM and np.array_equal(read.array, array):
        return
    raise InputError(
        "what was written differs from what is read back; nothing was kept",
        code="E-READ-BACK",
        file=path,
        remedy="Check the disk (and for NaN in the volume), then write it again.",
    )
