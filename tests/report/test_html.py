from __future__ import annotations

import math

import pytest

from medseg.report.html import data_uri, fixed, percent, relative_link, scaled


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (7.891, "7.89"), (12.34, "12.3"), (550.9, "551"), (12345.6, "12\u202f346"), (-8.04, "−8.04"),
     (0.0, "0.000"), (None, "–"), (math.inf, "∞")],
)  # fmt: skip
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert scaled(value) == text


def test_fixed_and_percent() -> None:
    assert fixed(-0.5) == "−0.500"
    assert fixed(-math.inf) == "−∞"
    assert percent(-0.0191) == "−1.9\u202f%"
    assert percent(None) == fixed(None) == "–"


@pytest.mark.parametrize(
    ("path", "link"),
    [("cases/a b.html", "cases/a%20b.html"), ("javascript:alert(1)", "javascript%3Aalert%281%29"),
     ("//evil.example/x", "evil.example/x"), ("../cohort.html", "../cohort.html"), ("a.html?x#y", "a.html%3Fx%23y")],
)  # fmt: skip
def test_links_stay_beside_the_page(path: str, link: str) -> None:
    assert relative_link(path) == link


def test_data_uri() -> None:
    assert data_uri(b"ab", "text/csv") == "data:text/csv;base64,YWI="
