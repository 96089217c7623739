from __future__ import annotations

import base64
import csv
import re

import pytest

from medseg.report.comparison import cases_csv, contrasts_csv, render_comparison
from medseg.report.paired_plots import paired_plots

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def test_page_is_sound_and_complete(make_comparison, inspect) -> None:
    page = render_comparison(make_comparison())
    faults, text = inspect(page)
    assert faults == []
    for shown in (
        "old against new", "Research use only", "8 cases under both", "Every difference is new − old",
        "higher by 0.022", "The rest is noise", "only in new: case_901, label vessel", "different versions",
        "0.812", "+0.022", "+0.011 to +0.033", "0.012", "0.025", "6 / 2", "31", "new better",
        "−1.23", "−2.35 to −0.12", "< 0.001", "> 9999", "undecided", "– to –", "not distinguishable",
        "new is better than old in dice of organ.", "right → wrong", "right → right", "ab12ab12ab12ab12", "9.8.7",
    ):  # fmt: skip
        assert shown in text, shown
    assert 'href="../old/cases/case_000.html"' in page
    assert 'aria-label="case_000 under old"' in page
    assert 'href="../old/index.html"' in page


def test_cases_are_split_by_what_happened_to_them_largest_change_first(make_comparison, inspect) -> None:
    """Dice of organ changes by -.01, 0, +.01 in turn over eight cases."""
    page = render_comparison(make_comparison())
    _, text = inspect(page)
    assert "3 cases worse with new" in text
    assert "2 cases better with new" in text
    assert "3 cases unchanged" in text
    report = make_comparison()
    first = report.cases[7].scores[0].model_copy(update={"values": {"dice": (0.9, 0.5)}})
    worst = report.cases[7].model_copy(update={"scores": (first,)})
    page = render_comparison(report.model_copy(update={"cases": (*report.cases[:7], worst)}))
    section = page[page.index('id="worse-title"') :]
    assert re.findall(r'<th scope="row">(case_\d+)</th>', section)[0] == "case_007"


def test_points_say_what_happened_by_shape_and_word(make_comparison) -> None:
    report = make_comparison()
    organ, _, lesion, distance, *_ = report.contrasts
    scatter, difference = paired_plots(organ, report.cases)
    assert [point.change for point in scatter.points[:3]] == ["loss", "same", "gain"]
    assert scatter.points[2].text == "case_002: 0.76, then 0.77"
    low, high = scatter.x_axis.low, scatter.x_axis.high
    assert low < 0.69 < 0.91 < high <= 1
    assert (scatter.x_axis.at(low), scatter.y_axis.at(low)) == (52, 254)
    assert difference.y_axis.low == -difference.y_axis.high
    mean, _, _, least, most = difference.band
    assert (least + most) / 2 == pytest.approx(mean)
    lost = paired_plots(lesion, report.cases)[0]
    assert (lost.num_absent, lost.points[3].y) == (1, 254)
    assert "(found, then missed)" in lost.points[3].text
    far = paired_plots(distance, report.cases)[0]
    assert far.y_axis.high < 6
    assert (far.points[3].change, far.points[3].y) == ("loss", 14)
    assert far.points[0].change == "gain"
    assert paired_plots(report.contrasts[-1], report.cases) is None


def test_hostile_text_is_inert(make_comparison, inspect) -> None:
    report = make_comparison()
    side = report.first.model_copy(update={"name": HOSTILE, "page": "javascript:alert(1)"})
    case = report.cases[0].model_copy(update={"case": HOSTILE, "first_page": "javascript:alert(1)"})
    contrasts = tuple(one.model_copy(update={"subject": HOSTILE, "sentence": HOSTILE}) for one in report.contrasts)
    changes = {"first": side, "cases": (case,), "contrasts": contrasts, "headline": (HOSTILE,), "notes": (HOSTILE,)}
    page = render_comparison(report.model_copy(update=changes))
    faults, _ = inspect(page)
    assert faults == []
    assert len(re.findall(r"<script", page)) == 1
    assert "<img" not in page
    assert "javascript:" not in page


def test_a_thousand_cases_stay_a_small_page(make_comparison) -> None:
    assert len(render_comparison(make_comparison(1000))) < 3_000_000


def test_without_a_change_no_list_of_changed_cases(make_comparison, inspect) -> None:
    faults, text = inspect(render_comparison(make_comparison(cases=(), contrasts=(), notes=())))
    assert faults == []
    assert "cases worse" not in text


def test_csv_holds_every_number(make_comparison) -> None:
    report = make_comparison()
    rows = list(csv.DictReader(contrasts_csv(report).splitlines()))
    assert len(rows) == 6
    assert float(rows[1]["difference"]) == -1.234
    assert (rows[3]["low"], rows[5]["num_better"]) == ("", "")
    page = render_comparison(report)
    encoded = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', page).group(1)
    assert base64.b64decode(encoded).decode() == contrasts_csv(report)
    cases = list(csv.DictReader(cases_csv(report).splitlines()))
    assert len(cases) == 8 * 7
    assert {"old", "new", "difference"} <= set(cases[0])
