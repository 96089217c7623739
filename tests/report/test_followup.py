from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.ops.alignment import Alignment
from medseg.report.followup import followup_csv, render_followup
from medseg.report.followup_pictures import Shown, followup_pictures
from medseg.report.outlines import outline_path
from medseg.report.planes import PLANES, canonical_view, cut, source_slice
from medseg.report.trends import sum_trend, volume_trend


def test_the_page_is_sound_and_tells_the_course(make_followup, followup_drawn, inspect):
    faults, text = inspect(render_followup(make_followup(), followup_drawn))
    assert faults == []
    for words in (
        "Response by RECIST 1.1: progressive disease",
        "1 new lesion (tumour-3)",
        "borderline",
        "W-NO-DATES",
        "merged into tumour-1",
        "not covered",
        "10 to no growth",
        "Research use only",
        "rigid",
    ):
        assert words in text
    faults, text = inspect(render_followup(make_followup()))
    assert faults == []


def test_names_cannot_break_out_of_the_page(make_followup, inspect):
    evil = "<script>alert(1)</script>"
    page = render_followup(make_followup(name=evil))
    assert evil not in page
    assert inspect(page)[0] == []


def test_the_csv_has_a_row_for_every_lesion_and_date(make_followup):
    rows = [line.split(",") for line in followup_csv(make_followup(name="=1+1")).splitlines()]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows[1][0] == "'=1+1"
    by_name = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    vanished = next(row for row in by_name if row["state"] == "vanished")
    assert (vanished["volume_ml"], vanished["long_axis_mm"]) == ("0.0", "")
    hidden = next(row for row in by_name if row["state"] == "not covered")
    assert hidden["volume_ml"] == ""


def test_curves_break_where_a_lesion_is_not_measured(make_followup):
    report = make_followup()
    trend = volume_trend(report)
    assert trend.unit == "ml"
    assert trend.days
    by_name = {line.name: line for line in trend.lines}
    assert by_name["tumour-1"].path.count("L") == 2
    assert by_name["tumour-4"].path.count("M") == 2
    sums = sum_trend(report, report.criteria[0])
    assert [level.text for level in sums.levels] == ["partial response at 28", "progression at 36"]
    assert sums.y_axis.at(0) == 230
    undated = make_followup(days=None)
    assert not volume_trend(undated).days
    assert volume_trend(undated).x_axis.ticks == (1, 2, 3)


def test_the_baseline_is_cut_as_the_other_pages_cut_it(scan):
    image, _, reference, _ = scan
    one = Shown("x", image, reference, Alignment.identity())
    lesions = [type("Lesion", (), {"id": f"l-{n}", "number": n, "state": "stable"})() for n in (1, 2)]
    places = {n: image.geometry.to_world(np.argwhere(reference.array == n)) for n in (1, 2)}
    made = followup_pictures([one, one], places, lesions)
    canonical = canonical_view(reference.array, image.geometry)
    for plane, board in zip(PLANES, made.checks["x"], strict=True):
        index = canonical.shape[plane.axis] // 2
        grey = cut(canonical_view(image.array[0], image.geometry), plane, index)
        window = one.window()
        drawn = (np.clip((grey - window.low) / (window.high - window.low), 0, 1) * 255).round()
        pixels = np.asarray(Image.open(io.BytesIO(board.png)).resize(drawn.shape[::-1], Image.Resampling.BOX))
        assert np.corrcoef(drawn.ravel(), pixels.ravel())[0, 1] > 0.9
    axial = PLANES[0]
    number = next(int(word) for word in made.overview.title.split("slice k ")[1].split())
    slices = [cut(canonical, axial, index) for index in range(canonical.shape[axial.axis])]
    paths = [[outline_path(one == n) for n in (1, 2)] for one in slices]
    shown = [outline.path for outline in made.overview.pictures[0].picture.prediction]
    assert shown in paths
    assert source_slice(image.geometry, axial, paths.index(shown)).startswith(f"k {number} ") or paths.count(shown) > 1


def test_the_later_date_is_shown_in_the_baseline_slice():
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    first = Geometry.from_parts((40, 36, 20), (1.5, 1.5, 3.0), turn, (-20, -30, -25))
    moved = np.eye(4)
    moved[:3, 3] = (12, -7, 6)
    second = Geometry.from_parts((60, 60, 40), (1.2, 1.2, 2.0), np.diag([-1, -1, 1]), (50, 30, -40))
    shown, places = [], []
    for geometry, alignment in ((first, Alignment.identity()), (second, Alignment(moved))):
        index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1).reshape(-1, 3)
        points = alignment.to_fixed(geometry.to_world(index))
        inside = np.linalg.norm(points - first.to_world([20, 18, 10]), axis=1) < 7
        mask = inside.reshape(geometry.shape).astype(np.uint8)
        image = Volume((mask * 100.0 + 20)[None].astype(np.float32), geometry)
        shown.append(Shown("x", image, LabelMap(mask, geometry), alignment))
        places.append(points[inside])
    lesion = type("Lesion", (), {"id": "tumour-1", "number": 1, "state": "stable"})()
    made = followup_pictures(shown, {1: np.concatenate(places)}, [lesion])
    assert "slice k 11 of 20" in made.overview.title
    one, other = (row.marks[0] for row in made.lesions[0].pictures)
    assert one.id == other.id == "tumour-1"
    assert (one.x, one.y) == pytest.approx((other.x, other.y), abs=5)
    sizes = {row.picture.size_voxels for row in made.lesions[0].pictures}
    assert len(sizes) == 1
    assert {row.picture.size_voxels for row in made.overview.pictures} == {(40, 36)}
    assert len(made.checks["x"]) == 3
