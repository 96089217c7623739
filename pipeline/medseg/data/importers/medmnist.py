"""MedMNIST 3D archives: arrays of small volumes with one class each."""

from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.case import Case, Split
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.data.importers.draft import Draft, not_understood
from medseg.data.importers.json_lists import HEAD
from medseg.io.files import require_file
from medseg.io.volumes import write_volume

_THREADS = 8  # small files: most of the time goes into waiting for the disk
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def read_medmnist(path: Path, out: Path) -> Draft:
    """Write each array entry as a NIfTI of 1 mm voxels into `<out stem>_volumes`; labels become the head `class`.

    Raises:
        InputError: `E-IMPORT`, not an archive of (N, I, J, K) images with (N, 1) labels.
    """
    folder = out.with_name(f"{out.stem}_volumes")
    try:
        with require_file(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            cases = [case for split in _SPLITS for case in _write_split(archive, split, folder, path)]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise not_understood(path, f"not a readable .npz: {error}", "Download the archive again.") from error
    if not cases:
        found = "no train_images, val_images or test_images in it"
        raise not_understood(path, found, "Give a MedMNIST 3D archive such as adrenalmnist3d.npz.")
    return Draft(name=path.stem, cases=tuple(cases), description="classification only; voxels taken as 1 mm")


def _write_split(archive: Any, split: Split, folder: Path, path: Path) -> list[Case]:
    if f"{split}_images" not in archive:
        return []
    images: NDArray[Any] = archive[f"{split}_images"]
    labels: NDArray[Any] = archive[f"{split}_labels"]
    if images.ndim != 4 or labels.size != len(images):
        raise not_understood(
            path,
            f"{split}_images is {images.shape} with labels {labels.shape}; expected (N, I, J, K) and (N, 1)",
            "Only the 3D sets with one class per volume are supported.",
        )
    names = [f"{split}_{number:05d}" for number in range(len(images))]
    files = [folder / f"{name}.nii.gz" for name in names]
    with ThreadPoolExecutor(_THREADS) as pool:
        # consumed, so that an error in a thread is raised here
        list(pool.map(lambda array, file: write_volume(_volume(array), file), images, files))
    return [
        Case(id=name, images=(file,), classes={HEAD: str(int(label))}, split=split)
        for name, file, label in zip(names, files, labels.reshape(-1), strict=True)
    ]


def _volume(array: NDArray[Any]) -> Volume:
    shape = (array.shape[0], array.shape[1], array.shape[2])
    return Volume(array[None], Geometry(shape, np.eye(4)))
