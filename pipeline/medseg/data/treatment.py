"""A case into a new dataset: sound files copied or linked, the others written as they should be."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.core.case import Case, Dataset
from medseg.core.doctor import CaseTreatment, Change, FileChanges, Finding
from medseg.core.document import Document
from medseg.core.errors import InputError, UsageError, case_context
from medseg.core.reading import Reading
from medseg.core.volume import LabelMap, Volume
from medseg.data.cures import Cured, cure_image, cure_label
from medseg.data.inspection import examine_images
from medseg.io.documents import read_document
from medseg.io.examine import Examined, examine_label
from medseg.io.files import atomic_path, sha256_of, write_text
from medseg.io.formats import SUFFIXES
from medseg.io.volumes import write_labels, write_volume

RECORDS = ".doctor"
_DETACHED = (".hdr", ".img", ".hdr.gz", ".img.gz", ".nhdr", ".mhd")
# Between cases no one but the owner knows which of them is right, so they stay.
_BETWEEN_CASES = {"E-DUPLICATE", "E-LEAK", "E-CASE-DUPLICATE"}


@dataclass(frozen=True, eq=False)
class Patient:
    """One case with its faults and their cures, in the order images, mask."""

    files: tuple[tuple[Examined, Cured], ...]

    @property
    def images(self) -> list[tuple[Examined, Cured]]:
        return [pair for pair in self.files if pair[0].kind == "image"]

    @property
    def label(self) -> tuple[Examined, Cured] | None:
        return next((pair for pair in self.files if pair[0].kind == "label"), None)


class _Record(Document):
    """What was done to a case and from what, so that it is not done again."""

    reading: Reading
    link: bool
    sources: tuple[str, ...]
    outputs: tuple[str, ...]
    case: Case
    treatment: CaseTreatment


def diagnose(case: Case, dataset: Dataset, reading: Reading) -> Patient:
    """Look at every file of a case and cure what can be cured."""
    reading = reading.over(dataset.reading_of(case))
    images = [(found, cure_image(found)) for found in examine_images(case, dataset, reading)]
    if case.label is None:
        return Patient(tuple(images))
    first = images[0][1].content
    grid = None if first is None else first.geometry
    found = examine_label(case.label, reading, onto=grid, names=dataset.labels)
    return Patient((*images, (found, cure_label(found, grid))))


def reasons_against(case: Case, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The errors of a case that no repair mends; those between cases left out."""
    return tuple(
        finding
        for finding in findings
        if finding.case == case.id
        and finding.severity == "error"
        and finding.fixable != "yes"
        and finding.code not in _BETWEEN_CASES
    )


def intended(case: Case, patient: Patient, root: Path) -> CaseTreatment:
    """What would be done to a case, nothing written."""
    files = tuple(
        FileChanges(
            kind=found.kind,
            source=_relative(found.path, root),
            file="",
            sha256_before=_hash(found.path),
            sha256_after="",
            changes=changes,
        )
        for found, cured in patient.files
        if (changes := _changes(found.path, cured))
    )
    return CaseTreatment(case=case.id, outcome="repaired" if files else "kept", files=files)


def treat_case(case: Case, dataset: Dataset, reading: Reading, *, out: Path, root: Path, link: bool) -> _Record:
    """Write one case into the new dataset, unless an earlier run has done so from the same files.

    Args:
        case: One without reasons against it.
        dataset: Its channels.
        reading: What the user has allowed.
        out: Folder of the new dataset.
        root: Folder of the original manifest, for the names in the record.
        link: Link sound files instead of copying them.
    """
    place = out / RECORDS / f"{case.id}.json"
    sources = tuple(_hash(path) for path in _paths(case))
    known = _known(place, out)
    if known and (known.sources, known.reading, known.link) == (sources, reading, link):
        return known
    with case_context(case.id):
        patient = diagnose(case, dataset, reading)
        written, changed = [], []
        for number, (found, cured) in enumerate(patient.files):
            changes = _changes(found.path, cured)
            target = out / _name(case, found, number, is_rewritten=bool(changes))
            if changes:
                _write(cured, target, dataset)
                changed.append(_file_changes(found, target, changes, out=out, root=root, sha256=sources[number]))
            else:
                _copy(found.path, target, link=link)
            written.append(target.relative_to(out))
    images = tuple(path for path, (found, _) in zip(written, patient.files, strict=True) if found.kind == "image")
    record = _Record(
        reading=reading,
        link=link,
        sources=sources,
        outputs=tuple(_hash(out / path) for path in written),
        case=case.model_copy(update={"images": images, "label": written[-1] if case.label else None}),
        treatment=CaseTreatment(case=case.id, outcome="repaired" if changed else "kept", files=tuple(changed)),
    )
    write_text(place, record.to_json())
    return record


def _known(place: Path, out: Path) -> _Record | None:
    """An earlier run's record, if everything that it names is still there unchanged."""
    try:
        record = read_document(place, _Record)
        outputs = tuple(_hash(out / path) for path in _paths(record.case))
    except (InputError, UsageError):
        return None
    return record if outputs == record.outputs else None


def _paths(case: Case) -> list[Path]:
    return [*case.images, *([case.label] if case.label else [])]


def _changes(path: Path, cured: Cured) -> tuple[Change, ...]:
    if path.is_file() and path.name.lower().endswith(_DETACHED):
        return (*cured.changes, Change(code="", was="header and voxels in two files", now="one file"))
    return cured.changes


def _name(case: Case, found: Examined, number: int, *, is_rewritten: bool) -> str:
    folder = "images" if found.kind == "image" else "labels"
    stem = f"{case.id}_{number:04d}" if found.kind == "image" and len(case.images) > 1 else case.id
    suffixes = [suffix for suffix in SUFFIXES if found.path.is_file() and found.path.name.lower().endswith(suffix)]
    suffix = ".nii.gz" if is_rewritten else max(suffixes, key=len, default="")
    return f"{folder}/{stem}{suffix}"


def _file_changes(
    found: Examined, target: Path, changes: tuple[Change, ...], *, out: Path, root: Path, sha256: str
) -> FileChanges:
    return FileChanges(
        kind=found.kind,
        source=_relative(found.path, root),
        file=target.relative_to(out).as_posix(),
        sha256_before=sha256,
        sha256_after=sha256_of(target),
        changes=changes,
    )


def _write(cured: Cured, target: Path, dataset: Dataset) -> None:
    if isinstance(cured.content, LabelMap):
        write_labels(cured.content, target, names=dataset.labels)
    elif isinstance(cured.content, Volume):
        write_volume(cured.content, target)
    else:
        raise cured.refused[0]


def _copy(source: Path, target: Path, *, link: bool) -> None:
    if link:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".tmp-{secrets.token_hex(6)}")
        temporary.symlink_to(source.resolve())
        temporary.replace(target)
    elif source.is_dir():
        for file in _files_in(source):
            _copy(file, target / file.relative_to(source), link=False)
    else:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def _files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of all files of a folder."""
    if not path.is_dir():
        return sha256_of(path)
    lines = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in _files_in(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()
