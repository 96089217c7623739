"""The page of training patches."""

import re

import numpy as np

from medseg.core.findings import Provenance
from medseg.report.preview import Patch, PatchRow, Preview, render_preview

PREVIEW = Preview(
    "cohort <b>",
    "Two patches.",
    {"Patch, voxels": "16 × 12 × 6"},
    ("organ", "lesion"),
    (1.0, 1.5, 5.0),
    Provenance(medseg_version="0", created="2026-01-01T00:00:00+00:00", dataset="cohort"),
)


def patch(title: str, *, value: float = 0.0) -> Patch:
    image = np.linspace(-1, 1, 16 * 12 * 6, dtype=np.float32).reshape(16, 12, 6)
    image[0, 0, :2] += value
    labels = np.zeros((16, 12, 6), np.uint8)
    labels[4:9, 3:8, 2:4] = 1
    labels[6:8, 4:6, 3] = 2
    labels[:, 0] = 255  # teaches nothing: not drawn
    return Patch(title, image, labels)


def test_every_patch_is_a_picture_with_its_outlines_in_the_window_of_its_row():
    rows = [PatchRow("case-1", "grade: high", (patch("as stored"), patch("variant 1", value=50.0)))]
    page = render_preview(PREVIEW, rows)
    assert page.count("<figure") == 2
    assert "grade: high" in page
    assert "cohort &lt;b&gt;" in page
    assert "in network units" in page
    assert len(re.findall(r"<title>(organ|lesion)</title>", page)) == 4
    assert "Case case-1, variant 1: Axial, slice k 4 of 6, organ, lesion outlined" in page


def test_values_that_are_not_finite_are_counted():
    page = render_preview(PREVIEW, [PatchRow("case-1", "", (patch("as stored", value=float("nan")),))])
    assert "as stored, 2 values not finite" in page
