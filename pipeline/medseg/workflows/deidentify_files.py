"""One file made nameless, whatever it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.core.reading import Reading
from medseg.core.volume import LabelMap, Volume
from medseg.io.deid import deidentify_object, is_directory
from medseg.io.deid_faces import Face
from medseg.io.dicom_headers import HEAD_BYTES, is_dicom
from medseg.io.files import opened
from medseg.io.formats import SUFFIXES
from medseg.io.volumes import read_volume, write_labels, write_volume
from medseg.ops.deface import FaceCut
from medseg.workflows.deidentify_account import Account, Ready

_IMAGE_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix not in {".dcm", ".ima", ".dicom", ".zip"})
_WRITTEN_AS_THEY_ARE = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")
_DATA_OF_HEADERS = (".img", ".img.gz")


def made_nameless(path: Path, name: str, shown: Path, account: Account) -> Ready | None:
    """One file of a folder; None when it is neither a DICOM object nor an image, or a DICOMDIR.

    Args:
        path: Where it can be read.
        name: Its pseudonym follows from this.
        shown: What a mapping calls it.
        account: Options and pseudonyms; it is not changed.

    Raises:
        InputError: As `deidentify_object` and `read_volume`.
        GeometryError: As `read_volume`; `E-DEFACE`.
    """
    if begins_as_dicom(path):
        return None if is_directory(path) else ready_object(path, shown, account)
    if not path.name.lower().endswith(_IMAGE_SUFFIXES) or _is_data(path):
        return None
    volume, called = read_volume(path), account.pseudonyms.case(name)
    cut = None if account.faces is None else account.faces.of_image(volume, called)
    return ready_volume(volume, Path("images", f"{called}{written_suffix(path, '.nii.gz')}"), shown, cut)


def begins_as_dicom(path: Path) -> bool:
    with opened(path) as stream:
        return is_dicom(stream.read(HEAD_BYTES))


def ready_object(
    path: Path, shown: Path, account: Account, *, identity: str = "", names: tuple[str, ...] = ()
) -> Ready:
    """A DICOM object; `identity` and `names` as of `deidentify_object`."""
    picture = f"series-{account.pseudonyms.case(str(shown))}"
    cut = None if account.faces is None else account.faces.of_object(path, picture)
    face = None if cut is None else Face(cut.holds, cut.air)
    made = deidentify_object(path, account.options, account.pseudonyms, identity=identity, names=names, face=face)
    return Ready(
        source=shown,
        place=made.place,
        write=made.write,
        tally=made.tally,
        identity=made.identity,
        patient=made.patient,
        pixels_cleaned=made.pixels_cleaned,
        defaced=made.defaced,
    )


def ready_volume(volume: Volume, place: Path, shown: Path, cut: FaceCut | None) -> Ready:
    """Voxels and grid written anew: no text of the old header comes along."""
    image = volume if cut is None else cut.removed_from(volume)
    return Ready(shown, place, lambda folder: write_volume(image, folder / place), defaced=cut is not None)


def ready_labels(labels: LabelMap, place: Path, shown: Path, names: dict[str, int], cut: FaceCut | None) -> Ready:
    """A mask; where the face was cut out of its image it is 0, for a mask of the skin shows a face too."""
    array = labels.array if cut is None else np.where(cut.mask(labels.geometry), 0, labels.array)
    mask = replace(labels, array=array.astype(labels.array.dtype))
    return Ready(shown, place, lambda folder: write_labels(mask, folder / place, names=names))


def written_suffix(path: Path, otherwise: str) -> str:
    """The format that a copy has: its own where it can be written."""
    lower = path.name.lower()
    return next((end for end in _WRITTEN_AS_THEY_ARE if lower.endswith(end)), otherwise)


def read_as_it_is(path: Path, reading: Reading, channels: int) -> Volume:
    """An image of a manifest, its values untouched: SUV is for DICOM, which is copied as DICOM."""
    return read_volume(path, reading.model_copy(update={"suv": False}), channels=channels)


def _is_data(path: Path) -> bool:
    """The voxels of a header beside it, which is read in its place."""
    lower = path.name.lower()
    end = next((end for end in _DATA_OF_HEADERS if lower.endswith(end)), None)
    return end is not None and path.with_name(path.name[: -len(end)] + end.replace("img", "hdr")).exists()
