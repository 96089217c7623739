"""A case on an oblique, anisotropic, off-origin grid, its report, a cohort, and a structural check of pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest

from medseg.core.comparison import ComparisonReport, Contrast, PairedCase, PairedScore, Side
from medseg.core.findings import (
    CaseFailure,
    CaseReport,
    ClassAnswer,
    ClassSummary,
    CohortReport,
    Estimate,
    GridSummary,
    LabelMetrics,
    LabelSummary,
    Provenance,
    ReliabilityBin,
    RocCurve,
)
from medseg.core.followup import FollowUp
from medseg.core.geometry import Geometry
from medseg.core.measurements import Caliper, CaseMeasurements, Intensity, Measurement, NormalRange
from medseg.core.staging import Bin, CaseStaging, RuleInput, StageResult
from medseg.core.volume import LabelMap, Volume
from medseg.ops.alignment import Alignment
from medseg.report.followup_pictures import FollowUpPictures, Shown, followup_pictures

LABELS = {"organ": 1, "lesion": 2}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@pytest.fixture
def scan() -> tuple[Volume, LabelMap, LabelMap, dict[str, int]]:
    """Image (CT-like), prediction, reference and labels; the prediction is the reference moved by two voxels."""
    turn, tilt = 0.2, -0.1
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    shape = (40, 36, 18)
    geometry = Geometry.from_parts(shape, (1.5, 1.5, 4.0), about_z @ about_x @ np.diag([-1, -1, 1]), (80, 30, -200))
    reference = np.zeros(shape, np.uint8)
    reference[8:26, 10:28, 4:14] = 1
    reference[12:18, 14:20, 7:11] = 2
    prediction = np.roll(reference, 2, axis=0)
    noise = np.random.default_rng(7).normal(0, 15, shape)
    image = np.select([reference == 2, reference == 1], [40, 110], default=-900) + noise
    return (
        Volume(image[None].astype(np.int16), geometry),
        LabelMap(prediction, geometry),
        LabelMap(reference, geometry),
        LABELS,
    )


def provenance() -> Provenance:
    return Provenance(
        medseg_version="9.8.7",
        created="2026-01-02T03:04:05Z",
        model="unet-small",
        weights_sha256="ab12" * 16,
        plan_sha256="cd34" * 16,
        dataset="phantom",
        packages={"torch": "2.13.0"},
        settings={"overlap": 0.5, "tta": False},
    )


def label_row(label: str, *, dice: float = 0.8123, presence: str = "both", volume_ml: float = 12.34) -> LabelMetrics:
    absent = presence in ("missed", "invented")
    return LabelMetrics.model_validate(
        {
            "label": label,
            "presence": presence,
            "dice": 0.0 if absent else dice,
            "iou": 0.0 if absent else 0.6839,
            "precision": 0.0 if absent else 0.7654,
            "recall": 0.0 if absent else 0.8765,
            "hd_mm": 98.76 if absent else 7.89,
            "hd95_mm": 98.76 if absent else 3.21,
            "assd_mm": 98.76 if absent else 0.98,
            "nsd": 0.0 if absent else 0.9136,
            "tolerance_mm": 1.5,
            "volume_ml": 0.0 if presence == "missed" else volume_ml,
            "reference_volume_ml": 0.0 if presence == "invented" else 13.57,
        }
    )


@pytest.fixture
def make_case() -> Callable[..., CaseReport]:
    def make(case: str = "case_001", **changes: object) -> CaseReport:
        values: dict[str, object] = {
            "case": case,
            "patient": "patient_9",
            "grid": GridSummary(shape=(40, 36, 18), spacing_mm=(1.5, 1.5, 4.0), axis_codes="LPS"),
            "volumes_ml": {"organ": 12.34, "lesion": 0.567, "vessel": 3.21},
            "metrics": (label_row("organ"), label_row("lesion", presence="missed")),
            "unlabelled": ("vessel",),
            "classes": (
                ClassAnswer(head="type", probabilities={"benign": 0.183, "malignant": 0.817}, reference="benign"),
            ),
            "flags": ("W-TILT: gantry tilted",),
            "attributes": {"site": "north"},
            "provenance": provenance(),
        }
        return CaseReport.model_validate(values | changes)

    return make


def estimate(mean: float, n: int = 6) -> Estimate:
    return Estimate(
        mean=mean,
        low=mean * 0.9,
        high=mean * 1.05,
        median=mean * 1.01,
        quartile_1=mean * 0.95,
        quartile_3=mean * 1.02,
        n=n,
    )


@pytest.fixture
def make_cohort(make_case: Callable[..., CaseReport]) -> Callable[..., CohortReport]:
    def make(num_cases: int = 6, **changes: object) -> CohortReport:
        answers = [
            ("benign", 0.9),
            ("benign", 0.6),
            ("malignant", 0.2),
            ("malignant", 0.7),
            ("benign", 0.8),
            ("malignant", 0.1),
        ]
        cases = []
        for n in range(num_cases):
            truth, benign = answers[n % 6]
            metrics = (
                label_row("organ", dice=0.5 + 0.05 * (n % 6)),
                label_row("lesion", presence="both" if n else "missed"),
            )
            answer = ClassAnswer(
                head="type", probabilities={"benign": benign, "malignant": 1 - benign}, reference=truth
            )
            cases.append(make_case(f"case_{n:03d}", metrics=metrics, classes=(answer,)))
        labels = tuple(
            LabelSummary(
                label=label,
                dice=estimate(0.7712),
                iou=estimate(0.6123),
                hd_mm=estimate(8.34),
                hd95_mm=estimate(4.56),
                assd_mm=estimate(1.23),
                nsd=estimate(0.8346),
                num_missed=missed,
                num_invented=0,
                num_both_empty=0,
            )
            for label, missed in (("organ", 0), ("lesion", 1))
        )
        summary = ClassSummary(
            head="type",
            classes=("benign", "malignant"),
            n=6,
            accuracy=0.8333,
            balanced_accuracy=0.8321,
            macro_f1=0.8287,
            auroc=0.8889,
            auroc_low=0.6012,
            auroc_high=0.9876,
            brier=0.1583,
            ece=0.2233,
            precision={"benign": 0.7501, "malignant": 0.9901},
            recall={"benign": 0.9902, "malignant": 0.6667},
            f1={"benign": 0.8571, "malignant": 0.8001},
            confusion=((3, 0), (1, 2)),
            collapsed=False,
            roc=(
                RocCurve(
                    name="malignant",
                    false_positive_rate=(0.0, 0.0, 0.0, 1 / 3, 1 / 3, 2 / 3, 1.0),
                    true_positive_rate=(0.0, 1 / 3, 2 / 3, 2 / 3, 1.0, 1.0, 1.0),
                    thresholds=(None, 0.9, 0.8, 0.4, 0.3, 0.2, 0.1),
                ),
            ),
            reliability=(ReliabilityBin(confidence=0.82, accuracy=5 / 6, num_cases=6),),
        )
        values: dict[str, object] = {
            "name": "phantom",
            "num_cases": num_cases + 1,
            "labels": labels,
            "mean_dice": estimate(0.7654),
            "classes": (summary,),
            "cases": tuple(cases),
            "failures": (CaseFailure(case="case_900", code="E-GZ-CRC", message="truncated", remedy="Copy it again."),),
            "provenance": provenance(),
        }
        return CohortReport.model_validate(values | changes)

    return make


@pytest.fixture
def make_staging() -> Callable[..., CaseStaging]:
    """A borderline category and one that misses an answer."""

    def make() -> CaseStaging:
        about = {
            "table": "own",
            "title": "Own table",
            "edition": "2nd",
            "source": "A book",
            "scope": "Some.",
            "licence": "Free.",
            "component": "size component only",
            "lesions": ("lesion-1",),
        }
        bins = (
            Bin(category="T1", above=None, up_to=10, closed="right"),
            Bin(category="T2", above=10, up_to=None, closed="right"),
        )
        size = RuleInput(name="long_axis_mm", value=12.7, uncertainty=2.9, origin="measured")
        told = RuleInput(name="timing", value="new", origin="given")
        judged = StageResult(
            **about,
            category="T2",
            borderline=("T1", "T2"),
            rule="own.size",
            measure="long_axis_mm",
            cut_offs=bins,
            inputs=(size, told),
            remark="longest distance in space 9 mm would be T1",
            statement="lesion-1: T2",
        )
        open_ = StageResult(**about, category=None, statement="lesion-1: no category: needs to know timing")
        return CaseStaging(case="case_001", results=(judged, open_), provenance=provenance())

    return make


@pytest.fixture
def make_measurements(scan) -> Callable[..., CaseMeasurements]:
    """An organ and a lesion of the reference of `scan`; the long axis runs across the lesion's middle slice."""
    geometry = scan[0].geometry

    def caliper(start: tuple[float, float, float], stop: tuple[float, float, float]) -> Caliper:
        ends = geometry.to_world([start, stop])
        length_mm = float(np.linalg.norm(ends[1] - ends[0]))
        return Caliper(length_mm=length_mm, uncertainty_mm=2.1, ends_mm=tuple(map(tuple, ends.tolist())))

    def make(**changes: object) -> CaseMeasurements:
        lesion = Measurement(
            id="lesion-1",
            label="lesion",
            kind="lesion",
            volume_ml=1.296,
            volume_uncertainty_ml=0.81,
            centre_mm=(1, 2, 3),
            long_axis=caliper((11.5, 13.5, 8), (17.5, 19.5, 8)),
            short_axis=caliper((11.5, 19.5, 8), (17.5, 13.5, 8)),
            feret=caliper((11.5, 13.5, 6.5), (17.5, 19.5, 10.5)),
            slice_number=9,
            instance_number=140,
            intensity=Intensity(
                unit="SUV",
                mean=40.1,
                minimum=-3,
                maximum=77,
                standard_deviation=15.2,
                suv_peak=44.4,
                total_lesion_glycolysis=52,
            ),
            organ="organ",
            side="right",
            side_basis="image",
            touching=("organ",),
        )
        known = NormalRange(
            low_ml=10, high_ml=20, comparison="above", population="adults", source="A book, 3rd edition"
        )
        organ = Measurement(
            id="organ",
            label="organ",
            kind="organ",
            volume_ml=27.9,
            volume_uncertainty_ml=6.3,
            centre_mm=(1, 2, 3),
            is_cut_off=True,
            long_axis=None,
            short_axis=None,
            feret=caliper((7.5, 9.5, 3.5), (25.5, 27.5, 13.5)),
            touching=("lesion",),
            normal_range=known,
        )
        values: dict[str, object] = {
            "case": "case_001",
            "grid": GridSummary(shape=(40, 36, 18), spacing_mm=(1.5, 1.5, 4.0), axis_codes="LPS"),
            "measurements": (organ, lesion),
            "absent": ("vessel",),
            "lesions": ("lesion",),
            "flags": ("W-UNIT-GUESSED: looks like HU",),
            "provenance": provenance(),
        }
        return CaseMeasurements.model_validate(values | changes)

    return make


def contrast(subject: str, metric: str, **changes: object) -> Contrast:
    values: dict[str, object] = {
        "kind": "label",
        "subject": subject,
        "metric": metric,
        "unit": "mm" if metric.endswith("_mm") else "",
        "better": "lower" if metric.endswith("_mm") else "higher",
        "first": 0.8123,
        "second": 0.8345,
        "difference": 0.0222,
        "low": 0.0111,
        "high": 0.0333,
        "test": "wilcoxon",
        "p": 0.0123,
        "p_holm": 0.0246,
        "num_tests": 2,
        "num_cases": 8,
        "num_patients": 8,
        "num_better": 6,
        "num_worse": 2,
        "verdict": "second_better",
        "detectable_difference": 0.0198,
        "patients_needed": 31,
        "sentence": f"new is better than old in {metric} of {subject}.",
    }
    return Contrast.model_validate(values | changes)


@pytest.fixture
def make_comparison() -> Callable[..., ComparisonReport]:
    def make(num_cases: int = 8, **changes: object) -> ComparisonReport:
        cases = []
        for n in range(num_cases):
            before, after = 0.7 + 0.03 * (n % 8), 0.7 + 0.03 * (n % 8) + 0.01 * (n % 3 - 1)
            lost = n == 3
            lesion = PairedScore(
                kind="label",
                subject="lesion",
                values={"dice": (before, 0.0 if lost else after), "hd95_mm": (5 * before, 90.0 if lost else 4 * after)},
                presence=("both", "missed" if lost else "both"),
            )
            organ = PairedScore(
                kind="label",
                subject="organ",
                values={"dice": (before, after), "hd95_mm": (5 * before, 5 * after)},
                presence=("both", "both"),
            )
            head = PairedScore(
                kind="head",
                subject="type",
                values={"accuracy": (1.0, float(n % 2)), "brier": (0.1, 0.2), "probability": (0.7, 0.6)},
            )
            cases.append(
                PairedCase(
                    case=f"case_{n:03d}",
                    patient=f"p{n}",
                    first_page=f"../old/cases/case_{n:03d}.html",
                    second_page=f"../new/cases/case_{n:03d}.html",
                    scores=(organ, lesion, head),
                )
            )
        values: dict[str, object] = {
            "name": "phantom",
            "first": Side(name="old", page="../old/index.html", provenance=provenance()),
            "second": Side(name="new", only_here=("case_901", "label vessel"), provenance=provenance()),
            "headline": ("new is better than old in Dice of organ: higher by 0.022.", "The rest is noise."),
            "contrasts": (
                contrast("organ", "dice"),
                contrast("organ", "hd95_mm", difference=-1.234, low=-2.345, high=-0.123, p=0.0001, p_holm=0.0002),
                contrast("lesion", "dice", verdict="not_distinguishable", low=-0.01, patients_needed=123456),
                contrast("lesion", "hd95_mm", verdict="undecided", low=None, high=None, patients_needed=None),
                contrast("type", "brier", kind="head", better="lower", num_tests=1),
                contrast("type", "auroc", kind="head", test="delong", num_better=None, num_worse=None),
            ),
            "cases": tuple(cases),
            "notes": ("Measured by different versions of medseg: 1, 2.",),
            "provenance": provenance(),
        }
        return ComparisonReport.model_validate(values | changes)

    return make


def _tracked(name: str, number: int, state: str, volume_ml: float | None = None, **more: object) -> dict[str, object]:
    values: dict[str, object] = {
        "id": name,
        "number": number,
        "label": "tumour",
        "tracking_uid": "2.25.7",
        "state": state,
    }
    if volume_ml is not None:
        length_mm = (volume_ml * 1000) ** (1 / 3)
        caliper = {"length_mm": length_mm, "uncertainty_mm": 1.0, "ends_mm": ((0, 0, 0), (length_mm, 0, 0))}
        values["measurement"] = {
            "id": name,
            "label": "tumour",
            "kind": "lesion",
            "volume_ml": volume_ml,
            "centre_mm": (0, 0, 0),
            "volume_uncertainty_ml": 0.1,
            "long_axis": caliper,
            "short_axis": caliper,
            "feret": caliper,
        }
    return {"measurement": None, **values, **more}


@pytest.fixture
def make_followup() -> Callable[..., FollowUp]:
    def make(days: tuple[int, ...] | None = (0, 60, 150), **changes: object) -> FollowUp:
        quality = {"correlation": 0.5, "mutual_information": 0.3, "body_dice": 0.9}
        registration = {
            "stage": "rigid",
            "matrix": tuple(tuple(row) for row in np.eye(4).tolist()),
            "rotation_degrees": 2.0,
            "determinant": 1.0,
            "before": quality,
            "after": quality,
            "refused": ("affine: stretched",),
        }
        cuts = {"partial_relative": -0.3, "progression_relative": 0.2, "progression_absolute": 5, "new_lesion_mm": 5}
        response = {
            "criterion": "recist11",
            "quantity": "long_axis_mm",
            "cut_offs": cuts,
            "baseline_total": 40,
            "targets": ({"id": "tumour-1", "value": 30, "uncertainty": 1},),
            "uncertainty": 1,
            "total": 30,
            "nadir_total": 30,
            "nadir_at": "mar",
            "change_from_baseline": -0.25,
            "change_from_nadir": 0,
        }
        stable = {**response, "category": "SD", "decided_by": "neither", "borderline": True, "nadir_total": 40}
        worse = {**response, "category": "PD", "decided_by": "1 new lesion (tumour-3) that the baseline does not show"}
        growth = {"days": 40.0, "low_days": 10.0, "high_days": None, "since": "mar"}
        lesions = (
            (
                _tracked("tumour-1", 1, "baseline", 8.0),
                _tracked("tumour-2", 2, "baseline", 2.0),
                _tracked("tumour-4", 3, "baseline", 1.0),
            ),
            (
                _tracked("tumour-1", 1, "merged", 9.0, parents=("tumour-1", "tumour-2")),
                _tracked("tumour-2", 2, "merged", merged_into="tumour-1"),
                _tracked("tumour-4", 3, "not covered"),
            ),
            (
                _tracked("tumour-1", 1, "grown", 14.0, change_from_previous=0.55, doubling=growth),
                _tracked("tumour-2", 2, "merged", merged_into="tumour-1"),
                _tracked("tumour-4", 3, "vanished", change_from_baseline=-1.0),
                _tracked("tumour-3", 4, "new", 0.5),
            ),
        )
        points = [
            {
                "case": case,
                "date": None if days is None else f"2026-0{number + 1}-01",
                "days": None if days is None else days[number],
                "registration": registration if number else None,
                "lesions": lesions[number],
                "responses": ((), (stable,), (worse,))[number],
                "flags": ("W-REGISTRATION: given up, affine",) if number else (),
            }
            for number, case in enumerate(("jan", "mar", "jun"))
        ]
        criterion = {
            "id": "recist11",
            "name": "RECIST 1.1",
            "edition": "2009",
            "source": "a journal",
            "scope": "tumours",
            "quantity": "long_axis_mm",
            "targets": ("tumour-1",),
            "not_judged": ("symptoms",),
        }
        values: dict[str, object] = {
            "name": "patient_9",
            "time_points": tuple(points),
            "criteria": (criterion,),
            "rules": {"grown": 0.25, "shrunk": -0.25, "coverage": 1.0},
            "flags": ("W-NO-DATES: none",),
            "provenance": provenance(),
        }
        return FollowUp.model_validate(values | changes)

    return make


@pytest.fixture
def followup_drawn(scan, make_followup) -> FollowUpPictures:
    """Three dates of the case of `scan`; the second and third lie two voxels aside."""
    image, later, first, _ = scan
    aside = np.eye(4)
    aside[:3, 3] = image.geometry.affine[:3, 0] * 2
    shown = [
        Shown("jan", image, first, Alignment.identity(), "HU"),
        Shown("mar", image, later, Alignment(aside), "HU"),
        Shown("jun", image, later, Alignment(aside)),
    ]
    places = {number: image.geometry.to_world(np.argwhere(first.array == min(number, 2))) for number in (1, 2, 3, 4)}
    return followup_pictures(shown, places, make_followup().time_points[-1].lesions)


class _Structure(HTMLParser):
    """Collects what a screen reader stumbles over."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.targets: list[str] = []
        self.headings: list[int] = []
        self.faults: list[str] = []
        self.captions = self.tables = 0
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if "id" in known:
            self.ids[known["id"]] += 1
        self.targets += known.get("aria-labelledby", "").split() + known.get("for", "").split()
        if known.get("href", "").startswith("#"):
            self.targets.append(known["href"][1:])
        for name, value in known.items():
            if name.startswith("on"):
                self.faults.append(f"event handler {name} on {tag}")
            if name == "style":
                self.faults.append(f"style attribute on {tag}: the policy blocks it")
            if name in ("src", "href", "srcset") and "//" in value and not value.startswith("data:"):
                self.faults.append(f"{tag} points outside: {value}")
        self._look(tag, known)

    def _look(self, tag: str, known: dict[str, str]) -> None:
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(int(tag[1]))
        if tag == "th" and known.get("scope") not in ("row", "col"):
            self.faults.append("th without scope")
        if tag == "svg" and "svg" not in self.open[:-1]:
            named = known.get("role") == "img" and known.get("aria-label")
            if not named and known.get("aria-hidden") != "true":
                self.faults.append("svg neither named nor hidden")
        if tag == "img" and not known.get("alt"):
            self.faults.append("img without alt")
        if tag == "input" and "label" not in self.open:
            self.faults.append("input without label")
        self.tables += tag == "table"
        self.captions += tag == "caption"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def close(self) -> None:
        super().close()
        self.faults += [f"<{tag}> left open" for tag in self.open]
        self.faults += [f"id {name} occurs {count} times" for name, count in self.ids.items() if count > 1]
        self.faults += [f"nothing has the id {name}" for name in self.targets if name not in self.ids]
        if self.headings.count(1) != 1:
            self.faults.append("not exactly one h1")
        steps = zip(self.headings, self.headings[1:], strict=False)
        self.faults += [f"h{one} is followed by h{two}" for one, two in steps if two > one + 1]
        if self.captions != self.tables:
            self.faults.append("a table has no caption")


@pytest.fixture
def inspect() -> Callable[[str], tuple[list[str], str]]:
    """Page to its structural faults and its visible text."""

    def look(page: str) -> tuple[list[str], str]:
        structure = _Structure()
        structure.feed(page)
        structure.close()
        return structure.faults, " ".join(" ".join(structure.text).split())

    return look
