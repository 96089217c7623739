"""`medseg follow-up`: the lesions of one patient over time, aligned, matched, measured and judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.clinical.criteria import Criterion
from medseg.clinical.response import judge
from medseg.clinical.tracking import FollowUpRules, Tracked, track
from medseg.core.document import suggest
from medseg.core.errors import MedsegError, UsageError, case_context
from medseg.core.findings import CaseFailure, GridSummary
from medseg.core.followup import FollowUp, TimePoint
from medseg.core.measurements import CaseMeasurements
from medseg.core.progress import Progress, silent
from medseg.core.reading import Containment
from medseg.core.volume import LabelMap
from medseg.io.contained import contained
from medseg.io.files import require_writable, write_text
from medseg.io.volumes import write_labels
from medseg.ops.alignment import Points, covers
from medseg.report.followup import followup_csv, render_followup
from medseg.report.followup_pictures import FollowUpPictures, Shown, followup_pictures
from medseg.workflows.config import packaged, read_yaml
from medseg.workflows.follow_up_open import FollowUpSettings, OpenedStudy, open_study
from medseg.workflows.follow_up_studies import Patient
from medseg.workflows.provenance import make_provenance

_LEAST_COVERED = 0.5
_MOST_BYTES = 255


@dataclass(frozen=True)
class Followed:
    """What came of it: every patient is in one of the two lists."""

    out: Path
    reports: tuple[FollowUp, ...]
    failures: tuple[CaseFailure, ...] = ()


@contained(Containment())
def follow_up(
    patients: Sequence[Patient], out: Path, settings: FollowUpSettings, *, progress: Progress = silent
) -> Followed:
    """Follow every patient; of several, one that fails is reported and the others go on.

    Args:
        patients: Their examinations, baseline first.
        out: `PATIENT/followup.json`, `.html` and `.csv`, and for every examination `CASE.measurements.json` and
            `CASE.lesions.nii.gz` with the same numbers and ids.
        settings: Criteria, rules, alignment.
        progress: Wraps the loop over patients.

    Raises:
        MedsegError: When the settings, or the only patient, cannot be used.
    """
    criteria, rules = read_criteria(settings.criteria), read_rules(settings.rules)
    require_writable(out)
    reports, failures = [], []
    for patient in progress(patients, "following up", len(patients)):
        try:
            with case_context(patient.name):
                reports.append(_follow(patient, out / patient.name, settings, rules, criteria))
        except MedsegError as error:
            if len(patients) == 1:
                raise
            failures.append(CaseFailure.of(patient.name, error))
    return Followed(out, tuple(reports), tuple(failures))


def read_criteria(names: Sequence[str]) -> tuple[Criterion, ...]:
    """Rule tables by name, or by path of a YAML file.

    Raises:
        UsageError: `E-CRITERION`, or `E-CONFIG` for a table that is not one.
    """
    folder = packaged("configs", "response")
    found = []
    for name in dict.fromkeys(names):
        path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
        if not path.is_file():
            known = sorted(file.stem for file in folder.glob("*.yaml"))
            remedy = f"Name a table of configs/response or a YAML file: {suggest(name, known)}"
            raise UsageError(f"no criterion {name!r}", code="E-CRITERION", remedy=remedy)
        found.append(Criterion.parse(read_yaml(path), file=path))
    return tuple(found)


def read_rules(path: Path | None) -> FollowUpRules:
    """What counts as the same lesion and as a change: configs/follow_up.yaml, or a copy of it."""
    file = path or packaged("configs", "follow_up.yaml")
    return FollowUpRules.parse(read_yaml(file), file=file)


def _follow(
    patient: Patient, out: Path, settings: FollowUpSettings, rules: FollowUpRules, criteria: Sequence[Criterion]
) -> FollowUp:
    opened: list[OpenedStudy] = []
    for study in patient.studies:
        with case_context(study.case):
            opened.append(open_study(study, opened[0].image if opened else None, settings))
    _check_labels(opened, settings.lesions)
    tracked = track([one.examination for one in opened], rules=rules)
    report = _report(patient, opened, tracked, rules, criteria, settings)
    page = render_followup(report, _draw(opened, tracked) if settings.pictures else None)
    for one, found in zip(opened, tracked, strict=True):
        write_labels(_relabelled(one, found), out / f"{one.study.case}.lesions.nii.gz")
        write_text(out / f"{one.study.case}.measurements.json", _measurements(one, found).to_json())
    write_text(out / "followup.csv", followup_csv(report))
    write_text(out / "followup.html", page)
    write_text(out / "followup.json", report.to_json())
    return report


def _check_labels(opened: Sequence[OpenedStudy], wanted: tuple[str, ...] | None) -> None:
    """Raises: UsageError: `E-LABEL-CONFLICT`, `E-LESION-NAME` or `E-NO-LESION-LABEL`."""
    names: dict[int, tuple[str, str]] = {}
    for one in opened:
        for name, value in one.labels.items():
            known, where = names.setdefault(value, (name, one.study.case))
            if known != name:
                message = f"the value {value} is called {known!r} in {where} and {name!r} in {one.study.case}"
                remedy = "Give the names for all masks with --labels: lesion=1,organ=2."
                raise UsageError(message, code="E-LABEL-CONFLICT", remedy=remedy)
    known_names = {name for one in opened for name in one.labels}
    for name in wanted or ():
        if known_names and name not in known_names:
            remedy = f"Name labels of the masks with --lesions: {suggest(name, sorted(known_names))}"
            raise UsageError(f"no mask has a label {name!r}", code="E-LESION-NAME", remedy=remedy)
    if known_names and not any(one.lesion_labels for one in opened):
        message = f"none of the labels was taken for a lesion: {', '.join(sorted(known_names))}"
        raise UsageError(message, code="E-NO-LESION-LABEL", remedy="Name those that are lesions with --lesions.")


def _report(
    patient: Patient,
    opened: Sequence[OpenedStudy],
    tracked: Sequence[Tracked],
    rules: FollowUpRules,
    criteria: Sequence[Criterion],
    settings: FollowUpSettings,
) -> FollowUp:
    course = [(one.study.case, found.lesions) for one, found in zip(opened, tracked, strict=True)]
    judged = {criterion.id: judge(course, criterion) for criterion in criteria}
    first = opened[0].study.day
    points = [
        TimePoint(
            case=one.study.case,
            date=one.study.day,
            days=None if first is None or one.study.day is None else (one.study.day - first).days,
            registration=None if one.registration is None else one.registration.quality,
            lesions=found.lesions,
            responses=tuple(responses[number - 1] for _, responses in judged.values()) if number else (),
            flags=(*one.flags, *_uncovered(one, found, opened[0])),
        )
        for number, (one, found) in enumerate(zip(opened, tracked, strict=True))
    ]
    flags = list(patient.flags)
    if not opened[0].examination.lesions:
        flags.append("W-NO-BASELINE-LESION: the baseline's mask holds no lesion; every later one counts as new")
    return FollowUp(
        name=patient.name,
        time_points=tuple(points),
        criteria=tuple(criterion.summary(judged[criterion.id][0]) for criterion in criteria),
        rules=rules.flat(),
        flags=tuple(flags),
        provenance=make_provenance("", settings),
    )


def _uncovered(one: OpenedStudy, found: Tracked, baseline: OpenedStudy) -> list[str]:
    """New lesions that lie where the baseline did not look."""
    states = {lesion.id: lesion.state for lesion in found.lesions}
    return [
        f"W-NEW-UNCOVERED: {name} lies outside the baseline's image; it may have been there before"
        for name, lesion in zip(found.ids, one.examination.lesions, strict=True)
        if states[name] == "new" and covers(baseline.image.geometry, lesion.shape.thinned_mm).mean() < _LEAST_COVERED
    ]


def _relabelled(one: OpenedStudy, found: Tracked) -> LabelMap:
    """Each lesion's number, the same at every examination."""
    numbers = {lesion.id: lesion.number for lesion in found.lesions}
    array = np.zeros(one.mask.geometry.shape, np.uint16 if len(numbers) > _MOST_BYTES else np.uint8)
    for name, lesion in zip(found.ids, one.examination.lesions, strict=True):
        array[tuple(lesion.voxels.T)] = numbers[name]
    return LabelMap(array, one.mask.geometry)


def _measurements(one: OpenedStudy, found: Tracked) -> CaseMeasurements:
    """As `medseg measure` writes them, under the ids and tracking UIDs of the follow-up."""
    seen = tuple(lesion.measurement for lesion in found.lesions if lesion.measurement is not None)
    return CaseMeasurements(
        case=one.study.case,
        grid=GridSummary.of(one.mask.geometry),
        measurements=(*one.examination.organs, *seen),
        absent=tuple(name for name, value in one.labels.items() if not (one.mask.array == value).any()),
        lesions=one.lesion_labels,
        flags=one.flags,
        provenance=make_provenance(""),
    )


def _draw(opened: Sequence[OpenedStudy], tracked: Sequence[Tracked]) -> FollowUpPictures:
    shown = []
    places: dict[int, list[Points]] = {}
    for one, found in zip(opened, tracked, strict=True):
        title = one.study.case if one.study.day is None else f"{one.study.case}, {one.study.day}"
        shown.append(Shown(title, one.image, _relabelled(one, found), one.examination.alignment, one.unit))
        numbers = {lesion.id: lesion.number for lesion in found.lesions}
        for name, lesion in zip(found.ids, one.examination.lesions, strict=True):
            places.setdefault(numbers[name], []).append(lesion.shape.thinned_mm)
    return followup_pictures(
        shown, {number: np.concatenate(points) for number, points in places.items()}, tracked[-1].lesions
    )
