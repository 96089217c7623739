"""The one door: every image and every mask comes in and goes out here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.reading import AS_IT_IS, Reading
from medseg.core.volume import SUV, LabelMap, Volume, require_same_grid
from medseg.io import values
from medseg.io.decoded import Decoded, ReadOptions, settle_geometry
from medseg.io.formats import decode, decode_here, decode_labels
from medseg.io.writers import write_image, write_mask


def read_volume(path: Path | str, reading: Reading = AS_IT_IS, *, channels: int = 1) -> Volume:
    """Read one image: NIfTI, NRRD, MetaImage, MGH, a DICOM file, folder or zip, told apart by content.

    Args:
        path: A file, or a folder that holds a DICOM series.
        reading: What to settle where the file does not decide, and what to repair.
        channels: How many channels the file must hold, as a fourth axis.

    Raises:
        InputError: The file is missing, damaged, or not an image; docs/errors.md lists the codes.
        GeometryError: Its place in the patient cannot be trusted.
    """
    volume = _read_one(Path(path), reading, channels)
    _require_suv([volume], reading)
    return volume


def read_volumes(
    paths: Sequence[Path], reading: Reading = AS_IT_IS, *, channels: int | None = None, missing: Sequence[int] = ()
) -> Volume:
    """Read a case: one file per channel stacked in the order given, or one file with all of them.

    Args:
        paths: Images on one grid.
        reading: As in `read_volume`.
        channels: How many channels the case must have; None takes one per file.
        missing: Places among them for which there is no file: zeros.

    Raises:
        InputError: As `read_volume`.
        GeometryError: `E-GRID-MISMATCH`, or as `read_volume`.
    """
    if missing:
        present = read_volumes(paths, reading, channels=None if channels is None else channels - len(missing))
        return _with_gaps(present, tuple(sorted(set(missing))))
    if len(paths) == 1:
        return read_volume(paths[0], reading, channels=channels or 1)
    volumes = [_read_one(path, reading, 1) for path in paths]
    if channels not in {None, len(volumes)}:
        raise wrong_channels(paths[0], len(volumes), channels or 1)
    _require_suv(volumes, reading)
    first = volumes[0]
    for volume in volumes[1:]:
        require_same_grid(first, volume)
    warnings = tuple(dict.fromkeys(flag for volume in volumes for flag in volume.warnings))
    unit, modality = (
        said.pop() if len(said) == 1 else None
        for said in ({volume.unit for volume in volumes}, {volume.modality for volume in volumes})
    )
    array = np.concatenate([volume.array for volume in volumes])
    return Volume(array, first.geometry, first.source, warnings, unit, modality)


def _with_gaps(volume: Volume, missing: tuple[int, ...]) -> Volume:
    present = iter(volume.array)
    nothing = np.zeros(volume.geometry.shape, volume.array.dtype)
    number = volume.num_channels + len(missing)
    array = np.stack([nothing if place in missing else next(present) for place in range(number)])
    return replace(volume, array=array, missing=missing)


def read_labels(
    path: Path | str,
    reading: Reading = AS_IT_IS,
    *,
    onto: Geometry | None = None,
    names: Mapping[str, int] | None = None,
) -> LabelMap:
    """Read one mask: whole numbers 0 to 65535, as uint8 where they fit and uint16 otherwise.

    Args:
        path: An image file of labels, a DICOM segmentation (SEG) or a structure set (RTSTRUCT).
        reading: How to read it.
        onto: DICOM SEG and RTSTRUCT: the grid of the image that they belong to; other files keep their own grid.
        names: DICOM SEG and RTSTRUCT: which structures to take, and the value of each.

    Raises:
        InputError: `E-LABEL-FRACTION`, `E-LABEL-RANGE`, or as `read_volume` and `read_dicom_labels`.
        GeometryError: As `read_volume` and `read_dicom_labels`.
    """
    path = Path(path)
    decoded = decode_labels(path, ReadOptions(reading, onto=onto, names=None if names is None else {**names}))
    shape = (decoded.array.shape[0], decoded.array.shape[1], decoded.array.shape[2])
    geometry = settle_geometry(decoded.affine, shape, path)
    flags = (*decoded.warnings, *values.label_flags(decoded.array))
    return LabelMap(values.labels(decoded.array, path), geometry, path, flags)


def write_volume(volume: Volume, path: Path | str) -> None:
    """Write an image as .nii, .nii.gz, .nrrd or .mha; several channels become a fourth axis.

    The file appears in one step, after it was read back and found equal; no text of the source's header is in it.

    Raises:
        InputError: `E-SUFFIX`, `E-NOT-WRITABLE`, `E-DISK-FULL` or `E-READ-BACK`.
    """
    array = volume.array[0] if volume.num_channels == 1 else volume.array
    write_image(array, volume.geometry, Path(path), verify=_reader(volume.num_channels))


def write_labels(label_map: LabelMap, path: Path | str, *, names: dict[str, int] | None = None) -> None:
    """Write a mask as .nii, .nii.gz, .nrrd, .seg.nrrd or .mha.

    Args:
        label_map: The mask.
        path: Where; its suffix chooses the format.
        names: Label names to values: kept as segments with colours in .seg.nrrd, unused by the other formats.

    Raises:
        InputError: `E-SUFFIX`, `E-NOT-WRITABLE`, `E-DISK-FULL` or `E-READ-BACK`.
    """
    write_mask(label_map.array, label_map.geometry, Path(path), names=names, verify=_reader(1))


def _reader(channels: int) -> Callable[[Path], Decoded]:
    return lambda path: decode_here(path, ReadOptions(channels=channels))


def wrong_channels(path: Path, found: int, expected: int) -> InputError:
    return InputError(
        f"expected {expected} channel(s), found {found}",
        code="E-CHANNELS",
        file=path,
        remedy="Give one file per channel in the order of the dataset, or one file with all of them.",
    )


def _read_one(path: Path, reading: Reading, channels: int) -> Volume:
    volume = values.as_volume(decode(path, ReadOptions(reading, channels)), path)
    if volume.num_channels != channels:
        raise wrong_channels(path, volume.num_channels, channels)
    return volume


def _require_suv(volumes: Sequence[Volume], reading: Reading) -> None:
    """Where SUV is asked for, one of a case's images must have it; a CT beside a PET stays as it is."""
    if reading.suv and all(volume.unit != SUV for volume in volumes):
        message = "SUV was asked for, but it is no DICOM PET series"
        remedy = "Leave --suv out, or give the DICOM series: other formats do not say dose, weight and times."
        raise InputError(message, code="E-SUV", file=volumes[0].source, remedy=remedy)
