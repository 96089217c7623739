from __future__ import annotations

import base64
import hashlib
import html
import re

import numpy as np
import pytest

from medseg.core.detection import LesionDetection, LesionMatch
from medseg.core.findings import ClassAnswer
from medseg.ops.surfaces import DirectedDistances, SurfaceDistances
from medseg.report.case import histograms, render_case
from medseg.report.pictures import case_pictures

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>{{ 7*7 }}"""


def surfaces(distances_mm: np.ndarray, areas_mm2: np.ndarray | None = None) -> SurfaceDistances:
    """The same distances in both directions, each element of 2 mm² unless told."""
    areas = np.full(distances_mm.size, 2.0) if areas_mm2 is None else areas_mm2
    return SurfaceDistances(DirectedDistances(distances_mm, areas), DirectedDistances(distances_mm, areas))


@pytest.fixture
def full_page(make_case, scan) -> str:
    image, prediction, reference, labels = scan
    pictures = case_pictures(image, prediction=prediction, reference=reference, labels=labels)
    distances = {"organ": surfaces(np.random.default_rng(0).exponential(1.0, 500))}
    return render_case(make_case(), pictures, distances=distances, cohort_page="../cohort.html")


def test_page_is_sound(full_page, inspect) -> None:
    faults, _ = inspect(full_page)
    assert faults == []


def test_every_number_and_word_is_on_the_page(full_page, inspect) -> None:
    _, text = inspect(full_page)
    for shown in (
        "case_001", "patient_9", "phantom", "Research use only", "40 × 36 × 18", "1.5 × 1.5 × 4", "LPS", "site north",
        "12.3", "13.6", "0.567", "3.21",  # volumes
        "0.812", "0.684", "0.765", "0.876", "7.89", "3.21", "0.98", "0.914", "1.5",  # metrics of the organ
        "98.76", "0.000", "missed", "in both", "lesion was missed", "diagonal of the image",
        "0.406",  # mean Dice
        "not scored: vessel", "not annotated",
        "type: malignant", "81.7 %", "18.3 %", "Reference: benign differs",
        "W-TILT: gantry tilted",
        "9.8.7", "2026-01-02T03:04:05Z", "unet-small", "ab12" * 16, "cd34" * 16, "torch 2.13.0", "overlap", "False",
    ):  # fmt: skip
        assert shown in text, shown


def test_pictures_are_inside_and_nothing_is_fetched(full_page) -> None:
    assert full_page.count("data:image/png;base64,") == 6 * 4
    assert re.findall(r"https?://", full_page) == []
    assert len(full_page) < 3_000_000


def test_policy_allows_only_our_style_and_script(full_page) -> None:
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', full_page).group(1))
    style = re.search(r"<style>(.*?)</style>", full_page, re.DOTALL).group(1)
    assert "default-src 'none'" in policy
    (script,) = re.findall(r"<script>(.*?)</script>", full_page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy


def test_hostile_text_is_inert(make_case, inspect, scan) -> None:
    report = make_case(
        HOSTILE,
        patient=HOSTILE,
        volumes_ml={HOSTILE: 1.0},
        metrics=(),
        unlabelled=(HOSTILE,),
        flags=(HOSTILE,),
        attributes={HOSTILE: HOSTILE},
        classes=(ClassAnswer(head=HOSTILE, probabilities={HOSTILE: 1.0}, reference=HOSTILE),),
    )
    image, prediction, reference, _ = scan
    pictures = case_pictures(image, prediction=prediction, reference=reference, labels={HOSTILE: 1})
    row = make_case().metrics[0].model_copy(update={"label": HOSTILE})
    report = report.model_copy(update={"metrics": (row,)})
    page = render_case(report, pictures, distances={HOSTILE: surfaces(np.ones(3))}, cohort_page="javascript:alert(1)")
    faults, text = inspect(page)
    assert faults == []
    assert len(re.findall(r"<script", page)) == 1
    assert "<img" not in page
    assert "javascript:" not in page
    assert HOSTILE in text


def test_without_reference_nothing_is_compared(make_case, inspect, scan) -> None:
    report = make_case(metrics=(), unlabelled=(), flags=(), classes=())
    image, prediction, _, labels = scan
    pictures = case_pictures(image, prediction=prediction, reference=None, labels=labels)
    faults, text = inspect(render_case(report, pictures))
    assert faults == []
    for absent in ("Dice", "HD95", "Flags", "No voxel differs", "missed", "Reference"):
        assert absent not in text
    assert "12.3" in text


def test_equal_masks_are_said_to_be_equal(make_case, inspect, scan) -> None:
    image, _, reference, labels = scan
    pictures = case_pictures(image, prediction=reference, reference=reference, labels=labels)
    assert "No voxel differs" in inspect(render_case(make_case(), pictures))[1]


def test_page_without_pictures_stands(make_case, inspect) -> None:
    faults, text = inspect(render_case(make_case()))
    assert faults == []
    assert "Pictures" not in text


def test_histogram_shares_are_areas(make_case) -> None:
    metrics = make_case().metrics
    found = surfaces(np.array([0.1, 0.1, 5.0]), np.array([1.0, 2.0, 1.0]))
    (histogram,) = histograms(metrics, {"organ": found, "lesion": surfaces(np.zeros(0)), "vessel": found})
    assert histogram.within_tolerance == pytest.approx(0.75)
    assert histogram.shares[0] == pytest.approx(0.75)
    assert histogram.shares[-1] == pytest.approx(0.25)
    assert sum(histogram.shares) == pytest.approx(1)
    assert histogram.limit_mm == 5


def test_equal_surfaces_have_a_histogram_too(make_case, inspect) -> None:
    faults, text = inspect(render_case(make_case(), distances={"organ": surfaces(np.zeros(10))}))
    assert faults == []
    assert "organ: 100.0 % of both surfaces" in text


def test_lesions_are_listed_with_place_and_slice(make_case, inspect) -> None:
    def lesion(status: str, number: int) -> LesionMatch:
        return LesionMatch(
            status=status, centre_mm=(-12.4, 30.6, -104.0), slice_number=number, volume_ml=1.5 * (status == "matched"),
            reference_volume_ml=2.5, dice=0.7531, iou=0.6039,
        )  # fmt: skip

    detection = LesionDetection(
        label="lesion", criterion="iou", threshold=0.1, min_volume_ml=0.02, num_reference=50, num_predicted=1,
        num_matched=1, sensitivity=0.02, precision=1.0, f1=0.0392, panoptic_quality=0.0237,
        lesions=(lesion("matched", 17), *(lesion("missed", 18 + n) for n in range(49))),
    )  # fmt: skip
    faults, text = inspect(render_case(make_case(lesions=(detection,))))
    assert faults == []
    for shown in ("Lesions: lesion", "1 of 50 found, 0 invented", "17", "0.753", "0.604", "matched", "missed"):
        assert shown in text, shown
    assert "L 12, A 31, I 104" in text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "parts under 0.02 ml are no lesions" in text
    assert "And 10 smaller ones" in text


def test_further_percentiles_and_the_settings_of_the_scoring_are_on_the_page(make_case, inspect) -> None:
    row = make_case().metrics[0].model_copy(update={"percentiles_mm": {"99": 6.54}})
    report = make_case(metrics=(row,))
    scoring = report.provenance.model_copy(update={"settings": {"mode": "voxel"}})
    faults, text = inspect(render_case(report.model_copy(update={"scoring": scoring})))
    assert faults == []
    assert "HD99, mm" in text
    assert "6.54" in text
    assert "scoring: mode voxel" in text
