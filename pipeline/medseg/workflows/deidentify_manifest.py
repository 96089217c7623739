"""A manifest and everything that it names become a nameless folder with a manifest of its own."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from medseg.core.case import Case, Dataset
from medseg.core.errors import InputError, MedsegError, UsageError
from medseg.core.progress import Progress
from medseg.core.reading import Reading
from medseg.data.manifest import read_manifest, write_manifest
from medseg.data.nameless import kept_columns, require_columns
from medseg.io.archives import unpacked
from medseg.io.deid_key import is_uid
from medseg.io.deid_rules import read_profile
from medseg.io.deid_tally import Tally
from medseg.io.volumes import read_labels
from medseg.ops.deface import FaceCut
from medseg.workflows.deidentify_account import Account, Ready
from medseg.workflows.deidentify_files import (
    begins_as_dicom,
    read_as_it_is,
    ready_labels,
    ready_object,
    ready_volume,
    written_suffix,
)

MANIFEST = "manifest.json"
_DICOM_ARCHIVE = ".zip"


def deidentify_manifest(source: Path, out: Path, account: Account, progress: Progress) -> int:
    """Every case whose files are all fine is written, with pseudonyms for its own and its patient's id.

    Returns:
        How many cases there are.

    Raises:
        UsageError: `E-DEID-OUT`, `E-DEID-COLUMN`, `E-DEID-SERIES`, or as `read_manifest`.
        InputError: As `read_manifest`.
    """
    dataset = read_manifest(source)
    if dataset.generator is not None:
        message = "its cases are made by medseg and show nobody"
        raise UsageError(message, code="E-DEID-OUT", file=source, remedy="Give a dataset of real images.")
    require_columns(dataset, account.options.keep_columns)
    _require_apart(dataset, out)
    reading = _nameless_reading(dataset.reading, account, source)
    cases = []
    for number, case in progress(list(enumerate(dataset.cases, start=1)), "deidentifying", len(dataset.cases)):
        try:
            cases.append(_NamelessCase(case, dataset, account, out).made())
        except MedsegError as error:
            account.refuse(number, case.id, error.code)
    if cases and account.out is not None:
        values = {"name": out.resolve().name, "description": "", "reading": reading}
        made = sorted(cases, key=lambda case: case.id)  # the old order may follow from names
        write_manifest(dataset.model_copy(update={**values, "cases": tuple(made)}), out / MANIFEST)
    return len(dataset.cases)


def _require_apart(dataset: Dataset, out: Path) -> None:
    outside = out.resolve()
    for case in dataset.cases:
        for path in (*case.images, *(() if case.label is None else (case.label,))):
            if outside in path.resolve().parents:
                message = "a file of the manifest lies in the output folder"
                raise UsageError(message, code="E-DEID-OUT", file=path, remedy="Choose a new folder elsewhere.")


def _nameless_reading(reading: Reading, account: Account, source: Path) -> Reading:
    """How the new files are read; a series is chosen by its new UID."""
    if reading.series is None:
        return reading
    if not is_uid(reading.series) or "." not in reading.series:
        message = "its `reading` chooses a series by number, and numbers change with the UIDs"
        raise UsageError(message, code="E-DEID-SERIES", file=source, remedy="Choose it by SeriesInstanceUID.")
    uid = reading.series if account.options.keep_uids else account.pseudonyms.uid(reading.series)
    return reading.model_copy(update={"series": uid})


@dataclass
class _NamelessCase:
    """One case on its way; `cut` is its face, as far as it is known."""

    case: Case
    dataset: Dataset
    account: Account
    out: Path
    cut: FaceCut | None = None

    def made(self) -> Case:
        """Write its files, all or none, and describe it anew.

        Raises:
            InputError: Of any of its files.
            GeometryError: Of any of its files.
        """
        case, account = self.case, self.account
        name = account.pseudonyms.case(case.id)
        ready: list[Ready] = []
        with ExitStack() as stack:
            images = [self._image(path, index, name, ready, stack) for index, path in enumerate(case.images)]
            label = None if case.label is None else self._label(case.label, name, ready)
            said = next((one.patient for one in ready if one.patient), "")
            patient = account.pseudonyms.patient(case.patient) if case.patient else said
            attributes = self._attributes(patient or name)
            account.take(ready)
        account.cases[case.id] = name
        if patient:
            account.patients.setdefault(patient, case.patient)
        return case.model_copy(
            update={"id": name, "patient": patient, "images": tuple(images), "label": label, "attributes": attributes}
        )

    def _image(self, path: Path, index: int, name: str, ready: list[Ready], stack: ExitStack) -> Path:
        if path.is_dir() or path.name.lower().endswith(_DICOM_ARCHIVE) or begins_as_dicom(path):
            return self._series(path, ready, stack)
        channels = len(self.dataset.channels) if len(self.case.images) == 1 and not self.case.missing else 1
        number = f"_{index:04d}" if len(self.case.images) > 1 else ""
        place = Path("images", f"{name}{number}{written_suffix(path, '.nii.gz')}")
        volume = read_as_it_is(path, self.dataset.reading, channels)
        if self.account.faces is not None and self.cut is None:
            self.cut = self.account.faces.of_image(volume, name)  # the files of a case lie on one grid
        ready.append(ready_volume(volume, place, path, self.cut))
        return self.out / place

    def _series(self, path: Path, ready: list[Ready], stack: ExitStack) -> Path:
        """A folder, zip or file of DICOM objects as the folder, or file, of the new ones."""
        folder = stack.enter_context(unpacked(path))
        files = sorted(one for one in folder.rglob("*") if one.is_file()) if folder.is_dir() else [folder]
        objects = [one for one in files if begins_as_dicom(one)]
        if self.account.faces is not None:
            self.account.faces.know(objects)
        self.account.num_left_out += len(files) - len(objects)
        made = [self._object(one, path if folder == one else path / one.relative_to(folder)) for one in objects]
        if not made:
            message = "it holds no DICOM object"
            raise InputError(message, code="E-NO-DICOM", file=path, remedy="Give the folder that holds the images.")
        if self.account.faces is not None:
            self.cut = next(filter(None, (self.account.faces.of_object(one, "") for one in objects)), self.cut)
        ready.extend(made)
        places = [one.place for one in made]
        is_one_file = not folder.is_dir()
        return self.out / (places[0] if is_one_file else Path(os.path.commonpath([one.parent for one in places])))

    def _object(self, path: Path, shown: Path) -> Ready:
        return ready_object(path, shown, self.account, identity=self.case.patient, names=tuple(self.dataset.labels))

    def _label(self, path: Path, name: str, ready: list[Ready]) -> Path:
        if begins_as_dicom(path):
            ready.append(self._object(path, path))
            return self.out / ready[-1].place
        place = Path("labels", f"{name}{written_suffix(path, '.nii.gz')}")
        ready.append(ready_labels(read_labels(path, self.dataset.reading), place, path, self.dataset.labels, self.cut))
        return self.out / place

    def _attributes(self, patient: str) -> dict[str, str]:
        options, pseudonyms = self.account.options, self.account.pseudonyms
        more = read_profile().table.characteristic_columns if options.keep_characteristics else ()
        move = (lambda day: pseudonyms.moved(day, patient)) if options.shift_dates else None
        kept = kept_columns(self.case, (*options.keep_columns, *more), move)
        same = sum(self.case.attributes[name] == value for name, value in kept.items())
        tally = Tally()
        tally.removed["manifest column"] += len(self.case.attributes) - len(kept)
        tally.replaced["manifest column"] += len(kept) - same
        tally.kept["manifest column"] += same
        self.account.tally.add(tally)
        return kept
