"""The examinations that are to be compared: whose they are, when they were made, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path

from medseg.core.case import Case, Dataset
from medseg.core.errors import InputError, UsageError
from medseg.data.manifest import read_manifest
from medseg.io.dicom_identity import UNKNOWN, Identity, read_identity
from medseg.io.files import require_path
from medseg.workflows.inputs import image_case
from medseg.workflows.mask_files import masks_in
from medseg.workflows.workspace import Workspace


@dataclass(frozen=True)
class Study:
    """One examination with its mask.

    Attributes:
        case: Names the output files.
        image: File or DICOM folder.
        mask: Its segmentation.
        labels: Name to value in the mask; None: as beside the mask or in it.
        identity: What the image's header says.
    """

    case: str
    image: Path
    mask: Path
    labels: Mapping[str, int] | None = None
    identity: Identity = UNKNOWN

    @property
    def day(self) -> date | None:
        return self.identity.day


@dataclass(frozen=True)
class Patient:
    """One patient's examinations, baseline first, and what was remarked on the way."""

    name: str
    studies: tuple[Study, ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyRequest:
    """What a person says about the examinations.

    Attributes:
        masks: One per image, in order; without any, those of `predictions` named after the images.
        predictions: Folder of masks; None: the workspace's, or a manifest's own masks.
        manifest: Instead of images.
        patient: Of the manifest, this one alone.
        dates: One per image, instead of what DICOM headers say.
        labels: Name to value in every mask.
        allow_other_patient: Compare although the headers name different patients.
        workspace: Where `medseg infer` wrote.
    """

    masks: tuple[Path, ...] = ()
    predictions: Path | None = None
    manifest: Path | None = None
    patient: str | None = None
    dates: tuple[str, ...] = ()
    labels: Mapping[str, int] | None = None
    allow_other_patient: bool = False
    workspace: Path = Path("medseg-work")


def collect_patients(images: Sequence[Path], request: StudyRequest) -> tuple[Patient, ...]:
    """The images of one patient, or every patient of a manifest.

    Raises:
        UsageError: `E-NO-INPUT`, `E-OPTION` or `E-DATE`.
        InputError: `E-NO-PREDICTION`, `E-OTHER-PATIENT`, `E-DATE-ORDER` or `E-NOTHING-TO-FOLLOW`.
    """
    if request.manifest is None:
        return (_patient_of_files(images, request),)
    if images:
        remedy = "Give one or the other."
        raise UsageError("images and a --manifest were named", code="E-OPTION", remedy=remedy)
    dataset = read_manifest(request.manifest)
    return patients_of_manifest(dataset, predictions=request.predictions, only=request.patient)


def _patient_of_files(images: Sequence[Path], request: StudyRequest) -> Patient:
    if len(images) < 2:
        remedy = "Name the baseline and at least one later image, or a --manifest."
        raise UsageError("a follow-up needs two examinations", code="E-NO-INPUT", remedy=remedy)
    for option, given in (("--mask", request.masks), ("--dates", request.dates)):
        if given and len(given) != len(images):
            message = f"{option} names {len(given)}, there are {len(images)} images"
            raise UsageError(message, code="E-OPTION", remedy=f"Give one {option} per image, in the same order.")
    for path in (*images, *request.masks):
        require_path(path)
    folder = request.predictions or Workspace(request.workspace).predictions
    masks = request.masks or tuple(_predicted(folder, image) for image in images)
    names, days = _names(images), [parse_date(text) for text in request.dates]
    studies = []
    for number, (name, image, mask) in enumerate(zip(names, images, masks, strict=True)):
        found = read_identity(image)
        identity = replace(found, day=days[number]) if days else found
        studies.append(Study(name, image, mask, request.labels, identity))
    flags = [*_check_patient(studies, allow_other=request.allow_other_patient), *_check_order(studies)]
    return Patient(names[0], tuple(studies), tuple(flags))


def patients_of_manifest(dataset: Dataset, *, predictions: Path | None, only: str | None = None) -> tuple[Patient, ...]:
    """Every patient of a manifest with two examinations or more, sorted by the attribute `date`, or `timepoint`.

    Args:
        dataset: Cases of one patient share `patient`.
        predictions: Folder of masks named after the cases; None: the manifest's own masks.
        only: This patient alone.

    Raises:
        InputError: `E-NOTHING-TO-FOLLOW` or `E-NO-PREDICTION`.
        UsageError: `E-DATE`.
    """
    groups: dict[str, list[Case]] = {}
    for case in dataset.cases:
        if only in {None, case.group}:
            groups.setdefault(case.group, []).append(case)
    several = {name: cases for name, cases in groups.items() if len(cases) > 1}
    if not several:
        whom = f"patient {only!r}" if only else "no patient"
        message = f"{whom} has fewer than two cases" if only else f"{whom} of the manifest has two cases"
        remedy = "Give the cases of one patient the same `patient` in the manifest."
        raise InputError(message, code="E-NOTHING-TO-FOLLOW", remedy=remedy)
    return tuple(_patient(name, cases, dataset, predictions) for name, cases in several.items())


def parse_date(text: str) -> date:
    """`2026-03-31` or `20260331`.

    Raises:
        UsageError: `E-DATE`.
    """
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{text!r} is no date", code="E-DATE", remedy="Write year-month-day: 2026-03-31.") from None


def _patient(name: str, cases: Sequence[Case], dataset: Dataset, predictions: Path | None) -> Patient:
    days = {case.id: parse_date(case.attributes["date"]) for case in cases if case.attributes.get("date")}
    steps = {case.id: case.attributes["timepoint"] for case in cases if case.attributes.get("timepoint")}
    flags: list[str] = []
    if len(days) == len(cases):
        ordered = sorted(cases, key=lambda case: days[case.id])
    elif len(steps) == len(cases):
        ordered = sorted(cases, key=lambda case: _natural(steps[case.id]))
    else:
        ordered = list(cases)
        flags.append("W-ORDER: neither every `date` nor every `timepoint` is known: taken in the manifest's order")
    studies = [
        Study(case.id, case.images[0], _mask_of(case, predictions), dataset.labels, Identity(day=days.get(case.id)))
        for case in ordered
    ]
    return Patient(name, tuple(studies), (*flags, *_check_order(studies)))


def _natural(text: str) -> tuple[float, str]:
    """Numbers by value, before words by the alphabet."""
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text


def _mask_of(case: Case, predictions: Path | None) -> Path:
    if predictions is not None:
        return _predicted(predictions, Path(case.id))
    if case.label is None:
        remedy = "Add a mask to the manifest, or name a folder of masks with --predictions."
        raise InputError("the case has no mask", code="E-NO-PREDICTION", case=case.id, remedy=remedy)
    return case.label


def _predicted(predictions: Path, image: Path) -> Path:
    name = image_case(image)
    found = masks_in(predictions).get(name, ()) if predictions.is_dir() else ()
    if len(found) > 1:
        message = f"{found[0].name} and {found[1].name} are both masks of {name}"
        remedy = "Move one away, or name the masks with --mask, one per image."
        raise UsageError(message, code="E-NAME-CLASH", case=name, file=predictions, remedy=remedy)
    if not found:
        remedy = f"Run `medseg infer --volume {image}` first, or name the masks with --mask, one per image."
        raise InputError(f"no mask {name}.* in {predictions}", code="E-NO-PREDICTION", case=name, remedy=remedy)
    return found[0]


def _names(images: Sequence[Path]) -> list[str]:
    """The images' own names, with their folder's before it where two are the same, numbered where that is no help."""
    names = [image_case(image) for image in images]
    if len(set(names)) < len(names):
        names = [f"{image_case(image.resolve().parent)}_{name}" for image, name in zip(images, names, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{number}_{name}" for number, name in enumerate(names, start=1)]
    return names


def _check_patient(studies: Sequence[Study], *, allow_other: bool) -> list[str]:
    """Never names a patient: identifiers do not belong into messages."""
    known = [study for study in studies if study.identity.patient]
    other = next((study for study in known if study.identity.patient != known[0].identity.patient), None)
    if other is not None and not allow_other:
        raise InputError(
            f"its header names another patient than {known[0].case}",
            code="E-OTHER-PATIENT",
            file=other.image,
            case=other.case,
            remedy="Name examinations of one patient; --allow-other-patient compares them all the same.",
        )
    if other is not None:
        return [f"W-OTHER-PATIENT: {other.case} names another patient than {known[0].case}, compared as asked"]
    if len(known) < len(studies):
        return ["W-PATIENT-UNKNOWN: not every file says whose it is; that they are one patient's is taken on trust"]
    return []


def _check_order(studies: Sequence[Study]) -> list[str]:
    dated = [study for study in studies if study.day is not None]
    for earlier, later in pairwise(dated):
        if earlier.day is not None and later.day is not None and later.day < earlier.day:
            raise InputError(
                f"it was made on {later.day}, before {earlier.case} on {earlier.day}",
                code="E-DATE-ORDER",
                case=later.case,
                remedy="Name the examinations in the order in which they were made, baseline first.",
            )
    if len(dated) < len(studies):
        return ["W-NO-DATES: not every examination has a date, so no rate of growth is given; see --dates"]
    return []
