"""Images that other libraries already hold in memory, through the same checks as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from medseg.core.errors import GeometryError, InputError, UsageError
from medseg.core.geometry import Geometry, lps_to_ras
from medseg.core.reading import AS_IT_IS, Reading
from medseg.core.volume import Volume
from medseg.io.decoded import Decoded, require_dims
from medseg.io.values import as_volume
from medseg.io.volumes import read_volumes

_NAME = Path("image in memory")


def volume_from(
    image: Any, *, affine: ArrayLike | None = None, reading: Reading = AS_IT_IS, channels: int = 1
) -> Volume:
    """Take an image as it comes.

    Args:
        image: A `Volume`; a path, or one path per channel (None where it is missing); a nibabel image; a SimpleITK
            image; or an array (I, J, K) or (C, I, J, K) together with `affine`.
        affine: (4, 4) voxel indices to RAS+ mm; for arrays only.
        reading: How a path is read.
        channels: How many channels a path must hold.

    Raises:
        UsageError: `E-IMAGE-TYPE` for anything else.
        GeometryError: `E-NO-ORIENTATION` for an array without an affine, and as `read_volume`.
        InputError: As `read_volume`.
    """
    if isinstance(image, Volume):
        return image
    if isinstance(image, str | Path):
        return read_volumes([Path(image)], reading, channels=channels)
    if isinstance(image, Sequence):
        missing = [place for place, path in enumerate(image) if path is None]
        paths = [Path(path) for path in image if path is not None]
        return read_volumes(paths, reading, channels=channels, missing=missing)
    if hasattr(image, "dataobj") and hasattr(image, "affine"):
        array = np.asanyarray(image.dataobj)
        return _checked(Decoded(np.moveaxis(array, 3, 0) if array.ndim == 4 else array, np.asarray(image.affine)))
    if hasattr(image, "GetDirection") and hasattr(image, "GetNumberOfComponentsPerPixel"):
        return _checked(_from_sitk(image))
    if not isinstance(image, np.ndarray):
        raise UsageError(
            f"cannot take an image from {type(image).__name__}",
            code="E-IMAGE-TYPE",
            remedy="Give a path, a nibabel or SimpleITK image, a Volume, or an array with its affine.",
        )
    if affine is None:
        raise GeometryError(
            "an array does not say where it lies in the patient",
            code="E-NO-ORIENTATION",
            remedy="Give affine=, (4, 4), from voxel indices to RAS+ millimetres.",
        )
    return _checked(Decoded(image, np.asarray(affine, dtype=np.float64)))


def _checked(decoded: Decoded) -> Volume:
    if decoded.array.ndim not in {3, 4}:
        raise _not_three(decoded.array.ndim)
    require_dims(decoded.array.shape[-3:], _NAME)
    return as_volume(decoded, _NAME)


def _from_sitk(image: Any) -> Decoded:
    import SimpleITK as sitk  # noqa: N813 - its own documentation's name

    if image.GetDimension() != 3:
        raise _not_three(image.GetDimension())
    direction = np.reshape(image.GetDirection(), (3, 3))
    array = sitk.GetArrayFromImage(image)
    array = array.transpose(3, 2, 1, 0) if array.ndim == 4 else array.T
    size = image.GetSize()
    affine = Geometry.from_parts((size[0], size[1], size[2]), image.GetSpacing(), direction, image.GetOrigin()).affine
    return Decoded(array, lps_to_ras(affine))


def _not_three(found: int) -> InputError:
    message = f"an image of {found} axes is not a volume"
    return InputError(message, code="E-NDIM", file=_NAME, remedy="Give one volume of three axes.")
