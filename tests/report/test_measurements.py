"""The page and the table of measurements, and calipers drawn where the lesion lies."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest

from medseg.report.calipers import draw_lesions
from medseg.report.measurements import measurements_csv, render_measurements
from medseg.report.outlines import UNITS_PER_VOXEL


@pytest.fixture
def drawn(scan, make_measurements):
    image, _, reference, labels = scan
    return draw_lesions(make_measurements().measurements, reference, labels=labels, image=image, unit="HU")


def test_the_page_says_every_number_with_its_meaning(make_measurements, drawn, inspect):
    faults, text = inspect(render_measurements(make_measurements(), drawn))
    assert faults == []
    for part in (
        "One lesion, lesion-1 in organ: long axis 12.7 ± 2.1 mm.",
        "12.7 ± 2.1",
        "1.30 ± 0.81",
        "9 image 140",
        "right by the image",
        "44.40",
        "cut off",
        "above 10.0 to 20.0 ml",
        "A book, 3rd edition",
        "No voxel in the mask: vessel.",
        "W-UNIT-GUESSED",
        "Research use only",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"measurements": ()}, "The mask is empty: there is nothing to measure."),
        ({"lesions": ()}, "No label was taken for a lesion: organs only."),
        ({}, "No lesion: the mask holds no voxel of lesion."),
    ],
)
def test_without_lesions_a_sentence_says_why(make_measurements, inspect, changes, sentence):
    organs = make_measurements().measurements[:1]
    report = make_measurements(**{"measurements": organs, **changes})
    faults, text = inspect(render_measurements(report, {}))
    assert faults == []
    assert sentence in text
    assert "Calipers" not in text


def test_a_hostile_case_name_stays_text(make_measurements, inspect):
    page = render_measurements(make_measurements(case="<script>alert(1)</script>"), {})
    assert "<script>alert" not in page


def test_the_calipers_end_at_the_corners_of_the_lesion(scan, make_measurements, drawn):
    """The lesion fills voxels 12 to 17 by 14 to 19 of an L P S grid: columns and rows as displayed."""
    geometry = scan[0].geometry
    assert geometry.axis_codes == "LPS"
    long, short = drawn["lesion-1"].calipers["overview"]
    ends = np.array([float(word) for word in re.findall(r"-?[\d.]+", long)])[:4].reshape(2, 2) / UNITS_PER_VOXEL
    # i runs to the left and j to the back, as columns and rows do.
    assert sorted(map(tuple, ends.round(3))) == [(12, 14), (18, 20)]
    across = np.array([float(word) for word in re.findall(r"-?[\d.]+", short)])[:4].reshape(2, 2) / UNITS_PER_VOXEL
    assert sorted(map(tuple, across.round(3))) == [(12, 20), (18, 14)]
    outline = drawn["lesion-1"].overview.prediction[0]
    assert outline.label == "lesion"
    assert "slice k 9 of 18" in drawn["lesion-1"].overview.title


def test_the_closer_picture_holds_the_same_line_in_its_own_place(drawn):
    closer = drawn["lesion-1"].closer
    ends = np.array([float(word) for word in re.findall(r"-?[\d.]+", drawn["lesion-1"].calipers["closer"][0])])[:4]
    assert closer.size_voxels[0] < 40
    assert (ends >= 0).all()
    assert (ends <= max(closer.size_voxels) * UNITS_PER_VOXEL).all()
    lengths = [np.hypot(*np.diff(np.reshape(ends, (2, 2)), axis=0)[0]) / UNITS_PER_VOXEL]
    assert lengths == pytest.approx([np.hypot(6, 6)], abs=0.01)


def test_without_an_image_the_mask_is_drawn_on_black(scan, make_measurements):
    _, _, reference, labels = scan
    drawn = draw_lesions(make_measurements().measurements, reference, labels=labels)
    assert drawn["lesion-1"].closer.windows[0][0].name == "no image"


def test_the_table_has_a_row_for_everything(make_measurements):
    text = measurements_csv([make_measurements(), make_measurements(case="empty", measurements=())])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["id"] for row in rows] == ["organ", "lesion-1", ""]
    assert rows[2]["case"] == "empty"
    assert "nothing to measure" in rows[2]["kind"]
    assert float(rows[1]["long_axis_mm"]) == pytest.approx(np.hypot(9, 9))
    assert rows[0]["long_axis_mm"] == ""
    assert rows[0]["normal_range"] == "above"
    assert rows[1]["touching"] == "organ"


def test_categories_are_a_section_of_the_page(make_measurements, make_staging, inspect):
    faults, text = inspect(render_measurements(make_measurements(), {}, staging=make_staging()))
    assert faults == []
    for part in (
        "borderline: T1 or T2",
        "long_axis_mm 12.7 ± 2.9",
        "timing new (told)",
        "T1: up to 10; T2: beyond",
        "own.size",
        "size component only. Longest distance in space 9 mm would be T1",
        "no category: needs to know timing",
        "Own table , 2nd. Some. Source: A book. Free.",
    ):
        assert part in text, part
