"""Which format a file is in, told by its first bytes, and its voxels as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medseg.core.errors import InputError
from medseg.io.contained import containable
from medseg.io.decoded import Decoded, ReadOptions
from medseg.io.files import opened, require_file, require_path, unchanged
from medseg.io.metaimage import is_metaimage, read_metaimage
from medseg.io.mgh import read_mgh
from medseg.io.nifti import is_nifti, looks_like_header, read_nifti
from medseg.io.nrrd import MAGIC as NRRD_MAGIC
from medseg.io.nrrd import read_nrrd
from medseg.io.streams import open_stream

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


def decode_here(path: Path, options: ReadOptions) -> Decoded:
    """Voxels and grid as a file has them, read in this process; whether they can be is not looked at yet.

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


decode = containable(decode_here)


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
    return decode_here(path, options)


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
