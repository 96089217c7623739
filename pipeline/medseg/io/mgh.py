"""FreeSurfer's .mgh and .mgz: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Affine
from medseg.io.decoded import ASSUME, Decoded, ReadOptions, require_dims
from medseg.io.streams import open_stream

_HEADER_BYTES = 284
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2"}


def read_mgh(path: Path, options: ReadOptions) -> Decoded:
    """Read one 3D image; what follows the voxels (scan parameters, text) is left out.

    Raises:
        InputError: `E-SHORT-DATA`, `E-DIMS`, `E-NDIM`, `E-DTYPE`, and what the stream finds.
        GeometryError: `E-NO-ORIENTATION`.
    """
    with open_stream(path) as stream:
        head = stream.read(_HEADER_BYTES)
        if len(head) < _HEADER_BYTES:
            message = f"expected a header of {_HEADER_BYTES} bytes, found {len(head)}"
            raise InputError(message, code="E-SHORT-DATA", file=path, remedy="Copy or download the file again.")
        sizes = [int(size) for size in np.frombuffer(head, ">i4", 4, 4)]
        shape = require_dims(sizes[:3] if sizes[3] == 1 else sizes, path)
        code = int(np.frombuffer(head, ">i4", 1, 20)[0])
        if code not in _TYPES:
            message = f"its number type (MGH code {code}) cannot be read"
            raise InputError(message, code="E-DTYPE", file=path, remedy="Convert it to short or float.")
        dtype = np.dtype(_TYPES[code])
        affine, warnings = _affine(head, path, options)
        values = stream.array(dtype, shape[0] * shape[1] * shape[2]).reshape(shape, order="F")
        stream.finish()
    return Decoded(values.astype(dtype.newbyteorder("=")), affine, warnings)


def _affine(head: bytes, path: Path, options: ReadOptions) -> tuple[Affine, tuple[str, ...]]:
    """Direction cosines in RAS and the position of the centre voxel, size / 2 from the first."""
    spacing = np.frombuffer(head, ">f4", 3, 30).astype(np.float64)
    cosines = np.frombuffer(head, ">f4", 9, 42).astype(np.float64).reshape(3, 3).T
    centre = np.frombuffer(head, ">f4", 3, 78).astype(np.float64)
    warnings: tuple[str, ...] = ()
    if not int(np.frombuffer(head, ">i2", 1, 28)[0]):
        if not options.reading.assume_orientation:
            message = "its header says nothing about orientation (goodRASFlag is 0)"
            raise GeometryError(message, code="E-NO-ORIENTATION", file=path, remedy=ASSUME)
        spacing, cosines, centre = np.ones(3), np.eye(3), np.zeros(3)
        warnings = ("W-ORIENTATION-ASSUMED",)
    affine = np.eye(4)
    affine[:3, :3] = cosines * spacing
    half = np.frombuffer(head, ">i4", 3, 4) / 2
    affine[:3, 3] = centre - affine[:3, :3] @ half
    return affine, warnings
