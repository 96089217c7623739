"""One DICOM file made nameless by PS3.15 Annex E, and written under new names only."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medseg.core.deidentification import DeidentifyOptions
from medseg.core.errors import InputError
from medseg.io.deid_dataset import Cleaner
from medseg.io.deid_faces import Face, cut_face
from medseg.io.deid_key import Pseudonyms, is_uid
from medseg.io.deid_pixels import clean_pixels
from medseg.io.deid_rules import read_profile
from medseg.io.deid_tally import Tally
from medseg.io.dicom_headers import read_object, untrusted
from medseg.io.files import atomic_path

_DIRECTORY = "1.2.840.10008.1.3.10"
_METHODS = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
    "113104": "Clean Structured Content Option",
    "113105": "Clean Descriptors Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113110": "Retain UIDs Option",
}


@dataclass(frozen=True)
class Nameless:
    """What became of one object.

    Attributes:
        identity: The original patient id; only for a mapping that was asked for.
        place: Where it goes, relative to the output folder: pseudonym / study / series / object.
    """

    data: Any = field(repr=False)
    identity: str = field(repr=False)
    patient: str
    place: Path
    tally: Tally
    pixels_cleaned: bool
    defaced: bool

    def write(self, folder: Path) -> None:
        """Write it, with a zero preamble and nothing of the old file meta information.

        Raises:
            InputError: `E-DICOM`, `E-DEID-DUPLICATE`, or as `atomic_path`.
        """
        from pydicom import dcmwrite

        with atomic_path(folder / self.place) as temporary, untrusted(self.place, "what is to be written"):
            dcmwrite(temporary, self.data, enforce_file_format=True)


def is_directory(path: Path) -> bool:
    """Whether it is a DICOMDIR: a list of file names and patients, of no use once both are new."""
    header = read_object(path, is_whole=False)
    return str(header.file_meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY


def deidentify_object(
    path: Path,
    options: DeidentifyOptions,
    pseudonyms: Pseudonyms,
    *,
    identity: str = "",
    names: tuple[str, ...] = (),
    face: Face | None = None,
) -> Nameless:
    """Read an object and make it nameless; nothing is written.

    Args:
        path: The object.
        options: Of the profile.
        pseudonyms: Of the key.
        identity: Whose it is; without it the header says so.
        names: Of labels, which segments and regions keep.
        face: To be cut out of it.

    Raises:
        InputError: `E-DICOM`, `E-DEID-CLASS`, `E-DEID-PIXELS`, or as `read_object` and `cut_face`.
    """
    profile, data = read_profile().knowing(names), read_object(path)
    with untrusted(path, "its header"):
        _refuse_unclean(data, profile.table.refused_classes, path)
        _settle_meta(data)
        cleaned = clean_pixels(data, profile.table, path, may_clean=options.clean_pixels)
        defaced = face is not None and cut_face(data, face, path)
        who = identity or _identity(data)
        patient = pseudonyms.patient(who)
        tally = Tally()
        Cleaner(profile, options, pseudonyms, patient, tally).clean(data)
        _state_methods(data, options, {"113101": cleaned, "113102": face is not None})
        place = Path(patient, *(_name(data, n) for n in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")))
        _write_meta(data)
    return Nameless(data, who, patient, place.with_name(f"{place.name}.dcm"), tally, cleaned, defaced)


def _refuse_unclean(data: Any, refused: tuple[str, ...], path: Path) -> None:
    kind = str(data.get("SOPClassUID", ""))
    is_refused = kind in refused or kind.startswith(tuple(one for one in refused if one.endswith(".")))
    if not kind or is_refused or not data.get("SOPInstanceUID"):
        raise InputError(
            "an object of this kind carries content that cannot be cleaned, or does not say what it is",
            code="E-DEID-CLASS",
            file=path,
            remedy="Look at it and leave it out: documents, raw data and recordings are not written.",
        )


def _identity(data: Any) -> str:
    """Who an object is about: the number with its issuer, else the name, else the study alone."""
    number, issuer = (str(data.get(name) or "").strip() for name in ("PatientID", "IssuerOfPatientID"))
    who = number or str(data.get("PatientName") or "").strip() or str(data.get("StudyInstanceUID") or "")
    return f"{who}\n{issuer}" if issuer else who


def _name(data: Any, keyword: str) -> str:
    """A UID as a name; one that is missing becomes the same word for all that lack it."""
    text = str(data.get(keyword) or "")
    return text if is_uid(text) else "none"


def _settle_meta(data: Any) -> None:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" in data.file_meta:
        return
    is_implicit, is_little = data.original_encoding
    explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit


def _write_meta(data: Any) -> None:
    """File meta information anew: who sent and who made the old file is not in it."""
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    data.file_meta, data.preamble = meta, b"\0" * 128


def _state_methods(data: Any, options: DeidentifyOptions, pixels: dict[str, bool]) -> None:
    """PS3.15 E.1.1: what was done, in words and in codes (PS3.16 CID 7050); `pixels` says which was done to them."""
    from pydicom.dataset import Dataset

    asked = {
        "113100": True,
        **pixels,
        "113104": True,
        "113105": options.keep_words,
        "113107": options.shift_dates,
        "113108": options.keep_characteristics,
        "113110": options.keep_uids,
    }
    codes = []
    for code in (code for code, is_asked in asked.items() if is_asked):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", _METHODS[code]
        codes.append(item)
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = f"medseg {version('medseg')}: {read_profile().table.edition}"[:64]
    data.DeidentificationMethodCodeSequence = codes
    data.LongitudinalTemporalInformationModified = "MODIFIED" if options.shift_dates else "REMOVED"
