"""A folder of DICOM objects and images becomes a nameless one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medseg.core.deidentification import DeidentifyOptions, DeidentifyReport, Mapping, RefusedFile
from medseg.core.errors import InputError, MedsegError, UsageError
from medseg.core.progress import Progress, silent
from medseg.io.deid import deidentify_object, is_directory
from medseg.io.deid_key import Pseudonyms, read_key, throwaway_key, write_secret
from medseg.io.deid_rules import read_profile
from medseg.io.deid_tally import Tally
from medseg.io.dicom_headers import HEAD_BYTES, is_dicom
from medseg.io.files import opened, require_path, require_writable, write_text
from medseg.io.volumes import SUFFIXES, read_volume, write_volume
from medseg.workflows.provenance import make_provenance

REPORT = "deidentify.json"
_IMAGE_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix not in {".dcm", ".ima", ".dicom", ".zip"})
_WRITTEN_AS_THEY_ARE = (".nii.gz", ".nii", ".nrrd", ".mha")
_DATA_OF_HEADERS = (".img", ".img.gz")


@dataclass
class _Account:
    """What has become of the files so far."""

    folder: Path | None
    options: DeidentifyOptions
    pseudonyms: Pseudonyms
    tally: Tally = field(default_factory=Tally)
    patients: dict[str, str] = field(default_factory=dict)
    places: dict[Path, Path] = field(default_factory=dict)
    refused: list[RefusedFile] = field(default_factory=list)
    refused_names: list[Path] = field(default_factory=list)
    num_left_out: int = 0
    num_pixels_cleaned: int = 0


def deidentify(
    source: Path,
    out: Path,
    options: DeidentifyOptions,
    *,
    key: Path | None,
    mapping: Path | None = None,
    progress: Progress = silent,
) -> DeidentifyReport:
    """Make every DICOM object and image of a folder, or one file, nameless; a file that is refused leaves no trace.

    Args:
        source: A folder with its subfolders, or a file.
        out: Gets pseudonyms as names, and the account `deidentify.json`.
        options: Of the profile.
        key: File of the secret key, made where there is none; None only counts and writes nothing.
        mapping: Where to write who is who.
        progress: Wraps the loop over files.

    Raises:
        UsageError: `E-DEID-OUT`.
        InputError: `E-DEID-KEY`, and what concerns the folders as a whole.
    """
    require_path(source)
    _refuse_overlap(source, out, *(path for path in (key, mapping) if path is not None))
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    if key is not None:
        require_writable(out)
    pseudonyms = Pseudonyms(throwaway_key() if key is None else read_key(key))
    account = _Account(None if key is None else out, options, pseudonyms)
    for number, path in progress(list(enumerate(files, start=1)), "deidentifying", len(files)):
        try:
            _one(path, str(path.relative_to(source)) if path != source else path.name, account)
        except MedsegError as error:
            account.refused.append(RefusedFile(file=number, code=error.code))
            account.refused_names.append(path)
    report = _report(account, len(files))
    if key is not None:
        write_text(out / REPORT, report.to_json())
        if mapping is not None:
            write_secret(mapping, _mapping(account).to_json())
    return report


def _refuse_overlap(source: Path, out: Path, *secret: Path) -> None:
    inside, outside = source.resolve(), out.resolve()
    if inside == outside or inside in outside.parents or outside in inside.parents:
        message = "the output folder and the input lie within one another"
        raise UsageError(message, code="E-DEID-OUT", file=out, remedy="Choose a new folder elsewhere.")
    for path in secret:
        if outside in path.resolve().parents:
            message = "the key or the mapping would lie among the nameless files"
            raise UsageError(message, code="E-DEID-OUT", file=path, remedy="Keep it where only you can read it.")


def _one(path: Path, name: str, account: _Account) -> None:
    with opened(path) as stream:
        head = stream.read(HEAD_BYTES)
    if is_dicom(head):
        if is_directory(path):
            account.num_left_out += 1
        else:
            _dicom(path, account)
    elif path.name.lower().endswith(_IMAGE_SUFFIXES) and not _is_data(path):
        _image(path, name, account)
    else:
        account.num_left_out += 1


def _is_data(path: Path) -> bool:
    """The voxels of a header beside it, which is read in its place."""
    lower = path.name.lower()
    end = next((end for end in _DATA_OF_HEADERS if lower.endswith(end)), None)
    return end is not None and path.with_name(path.name[: -len(end)] + end.replace("img", "hdr")).exists()


def _dicom(path: Path, account: _Account) -> None:
    made = deidentify_object(path, account.options, account.pseudonyms)
    _claim(path, made.place, account)
    if account.folder is not None:
        made.write(account.folder)
    account.tally.add(made.tally)
    account.places[path] = made.place
    account.patients[made.patient] = made.identity
    account.num_pixels_cleaned += made.pixels_cleaned


def _image(path: Path, name: str, account: _Account) -> None:
    """Voxels and grid written anew: no text of the old header comes along."""
    end = next((end for end in _WRITTEN_AS_THEY_ARE if path.name.lower().endswith(end)), ".nii.gz")
    place = Path("images", f"{account.pseudonyms.case(name)}{end}")
    volume = read_volume(path)
    if account.folder is not None:
        write_volume(volume, account.folder / place)
    account.places[path] = place


def _claim(path: Path, place: Path, account: _Account) -> None:
    if place in account.places.values():
        raise InputError(
            "another object of this input has the same identity",
            code="E-DEID-DUPLICATE",
            file=path,
            remedy="Leave one of the two out.",
        )


def _report(account: _Account, num_files: int) -> DeidentifyReport:
    return DeidentifyReport(
        edition=read_profile().table.edition,
        options=account.options,
        num_files=num_files,
        num_written=len(account.places),
        num_left_out=account.num_left_out,
        num_patients=len(account.patients),
        num_pixels_cleaned=account.num_pixels_cleaned,
        attributes=account.tally.counts(),
        refused=tuple(account.refused),
        provenance=make_provenance(""),
    )


def _mapping(account: _Account) -> Mapping:
    files = {str(path): str(place) for path, place in account.places.items()}
    return Mapping(patients=account.patients, files=files | {str(path): "" for path in account.refused_names})
