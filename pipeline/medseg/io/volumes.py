"""The one door: every image and every mask comes in and goes out here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.reading import AS_IT_IS, Reading
from medseg.core.volume import SUV, LabelMap, Volume, require_same_grid
from medseg.io import values
from medseg.io.contained import containable
from medseg.io.decoded import Decoded, ReadOptions, settle_geometry
from medseg.io.files import opened, require_file, require_path, unchanged
from medseg.io.metaimage import is_metaimage, read_metaimage
from medseg.io.mgh import read_mgh
from medseg.io.nifti import is_nifti, looks_like_header, read_nifti
from medseg.io.nrrd import MAGIC as NRRD_MAGIC
from medseg.io.nrrd import read_nrrd
from medseg.io.streams import open_stream
from medseg.io.writers import write_image, write_mask

_HEAD_BYTES = 544
_DOWNLOAD = "Download the file again and look at what arrived."


class _Format(NamedTuple):
    name: str
    suffixes: tuple[str, ...]
    begins: Callable[[bytes], bool]
    read: Callable[[Path, ReadOptions], Decoded]
    may_be_gzip: bool = False


def _read_dicom(path: Path, options: ReadOptions) -> Decoded:
    # here because pydicom takes longer to load than a NIfTI to read
    from medseg.io.dicom import decode_series

    return decode_series(path, options)


def _begins_mgh(head: bytes) -> bool:
    """Version 1, big-endian: MGH has no other magic."""
    return head.startswith(b"\0\0\0\1")


_DICOM = _Format("DICOM", (".dcm", ".ima", ".dicom"), lambda head: head[128:132] == b"DICM", _read_dicom)
_ZIP = _Format("zip", (".zip",), lambda head: head[:4] == b"PK\x03\x04", _read_dicom)
_FORMATS = (
    _Format("NIfTI", (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz"), is_nifti, read_nifti, may_be_gzip=True),
    _Format("NRRD", (".nrrd", ".nhdr"), lambda head: head.startswith(NRRD_MAGIC), read_nrrd),
    _Format("MetaImage", (".mha", ".mhd"), is_metaimage, read_metaimage),
    _Format("MGH", (".mgz", ".mgh", ".mgh.gz"), _begins_mgh, read_mgh, may_be_gzip=True),
    _DICOM,
    _ZIP,
)
SUFFIXES: tuple[str, ...] = tuple(suffix for known in _FORMATS for suffix in known.suffixes)
_OTHERS = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a numpy array without geometry",
    b"\x89HDF": "an HDF5 file",
    b"version https://git": "a Git LFS pointer, not the data",
}


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


@containable
def decode_labels(path: Path, options: ReadOptions) -> Decoded:
    """A file of named structures as the mask that it describes, any other file as it is."""
    require_path(path)
    if path.is_file():
        with opened(require_file(path)) as file:
            head = file.read(_HEAD_BYTES)
        if _DICOM.begins(head):
            from medseg.io.dicom_labels import read_dicom_labels

            with unchanged(path):
                found = read_dicom_labels(path, onto=options.onto, names=options.names)
            if found is not None:
                return Decoded(found.array, found.geometry.affine, found.warnings)
    return _decode(path, options)


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
    return lambda path: _decode(path, ReadOptions(channels=channels))


def _decode(path: Path, options: ReadOptions) -> Decoded:
    """Voxels and grid as a file has them; whether they can be is not looked at yet.

    Raises:
        InputError: As `read_volume`, but for values and the grid.
        GeometryError: Its header contradicts itself or says too little.
    """
    require_path(path)
    if path.is_dir() and not path.name.lower().endswith(SUFFIXES):
        with unchanged(path):
            return _read_dicom(path, options)
    require_file(path)
    with unchanged(path):
        return _decode_file(path, options)


decode = containable(_decode)


def _decode_file(path: Path, options: ReadOptions) -> Decoded:
    lower = path.name.lower()
    with open_stream(path) as stream:
        head = stream.peek(_HEAD_BYTES)
        is_packed = stream.codec == "gzip"
    known = _recognise(head, path)
    if is_packed and not known.may_be_gzip:
        message = f"it is a {known.name} file inside gzip"
        raise InputError(message, code="E-NOT-IMAGE", file=path, remedy="Unpack it with gunzip.")
    with np.errstate(all="ignore"):
        # numbers too large for their type become infinite, which the checks of grid and values refuse
        decoded = known.read(path, options)
    if _is_misnamed(lower, known, is_packed=is_packed):
        return replace(decoded, warnings=(*decoded.warnings, "W-EXT"))
    return decoded


def _is_misnamed(lower: str, known: _Format, *, is_packed: bool) -> bool:
    if known is _DICOM:
        return False
    if lower.endswith((".nii", ".nii.gz")):
        return known.name != "NIfTI" or lower.endswith(".gz") != is_packed
    return not lower.endswith(known.suffixes)


def _recognise(head: bytes, path: Path) -> _Format:
    """The format that the first bytes show; the suffix only decides for headers without a magic.

    Raises:
        InputError: `E-EXT-MISMATCH`, `E-MAGIC`, `E-PICKLE` or `E-NOT-IMAGE`.
    """
    lower = path.name.lower()
    nifti = _FORMATS[0]
    if lower.endswith(nifti.suffixes[2:]):
        return nifti
    found = next((known for known in _FORMATS if known.begins(head)), None)
    claimed = next((known for known in _FORMATS if lower.endswith(known.suffixes)), None)
    if found is not None:
        if claimed is not None and claimed is not found and _DICOM in {found, claimed}:
            message = f"the name says {claimed.name}, the content is {found.name}"
            remedy = "Give the folder of the DICOM series." if found is _DICOM else "Rename it to its true suffix."
            raise InputError(message, code="E-EXT-MISMATCH", file=path, remedy=remedy)
        return found
    if claimed is _DICOM:
        return _DICOM
    if looks_like_header(head):
        return nifti
    raise _not_an_image(head, path)


def _not_an_image(head: bytes, path: Path) -> InputError:
    if head.lstrip()[:1] == b"<":
        message = "it looks like an HTML or XML page; did a download fail?"
        return InputError(message, code="E-NOT-IMAGE", file=path, remedy=_DOWNLOAD)
    if head.startswith(b"\x93NUMPY") and b"'|O'" in head:
        message = "it holds pickled Python objects, which are never loaded"
        return InputError(message, code="E-PICKLE", file=path, remedy="Save the array as NIfTI or NRRD.")
    found = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), "of no known format")
    formats = ", ".join(known.name for known in _FORMATS[:5])
    message = f"it is {found}; images are read from {formats}"
    remedy = "Check that this is the right file, or convert it."
    return InputError(message, code="E-NOT-IMAGE", file=path, remedy=remedy)


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
