"""MONAI's way into the one door: `LoadImaged(keys, reader=VolumeReader())` reads what `read_volumes` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from medseg.core.errors import MedsegError
from medseg.core.volume import Volume
from medseg.io.formats import SUFFIXES
from medseg.io.volumes import read_volumes


class VolumeReader(ImageReader):  # type: ignore[misc]
    """Volumes as (C, I, J, K) with a RAS affine; a case's several files become its channels."""

    def verify_suffix(self, filename: Sequence[Path | str] | Path | str) -> bool:
        """Whether every name ends in a known suffix or is a folder (a DICOM series)."""
        return all(path.is_dir() or path.name.lower().endswith(SUFFIXES) for path in _paths(filename))

    def read(self, data: Sequence[Path | str] | Path | str, **kwargs: Any) -> Volume | MedsegError:  # noqa: ARG002
        """Read, or keep the refusal for `get_data`: what `read` raises makes MONAI try its other readers instead."""
        try:
            return read_volumes(_paths(data))
        except MedsegError as refusal:
            return refusal

    def get_data(self, img: Volume | MedsegError) -> tuple[NDArray[Any], dict[str, Any]]:
        """Give the array and the metadata that MONAI's MetaTensor keeps.

        Raises:
            MedsegError: The refusal of `read`.
        """
        if isinstance(img, MedsegError):
            raise img
        affine = np.array(img.geometry.affine)
        metadata = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(img.geometry.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        }
        return img.array, metadata


def _paths(data: Sequence[Path | str] | Path | str) -> list[Path]:
    return [Path(data)] if isinstance(data, str | Path) else [Path(item) for item in data]
