"""The pages in headless Chromium: under their own policy, on paper, and, where axe-core lies at hand, checked by it."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from medseg.report.calipers import draw_lesions
from medseg.report.case import render_case
from medseg.report.cohort import render_cohort
from medseg.report.measurements import render_measurements
from medseg.report.pictures import case_pictures

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = os.environ.get("MEDSEG_AXE_JS", "")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH"),
]


def chromium(profile: Path, *arguments: str) -> str:
    quiet = ("gpu", "quic", "sync", "background-networking", "component-update")
    options = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{part}" for part in quiet)]
    command = [str(CHROMIUM), *options, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture
def pages(make_case, make_cohort, make_measurements, scan, tmp_path) -> dict[str, Path]:
    image, prediction, reference, labels = scan
    pictures = case_pictures(image, prediction=prediction, reference=reference, labels=labels)
    measured = make_measurements()
    drawn = draw_lesions(measured.measurements, reference, labels=labels, image=image, unit="HU")
    contents = {
        "measurements": render_measurements(measured, drawn),
        "case": render_case(make_case(), pictures, cohort_page="cohort.html"),
        "cohort": render_cohort(make_cohort(), case_pages={"case_001": "case.html"}),
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.html").write_text(content, encoding="utf-8")
    return {name: tmp_path / f"{name}.html" for name in contents}


def test_a_case_prints_on_two_sheets(pages, tmp_path) -> None:
    paper = tmp_path / "case.pdf"
    chromium(tmp_path / "profile", "--no-pdf-header-footer", f"--print-to-pdf={paper}", pages["case"].as_uri())
    assert len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes())) == 2


def test_sorting_runs_under_the_policy(pages, tmp_path) -> None:
    dom = chromium(tmp_path / "profile", "--dump-dom", pages["cohort"].as_uri())
    assert re.search(r"<th[^>]*><button type=\"button\">Mean Dice</button>", dom)


@pytest.mark.skipif(not AXE, reason="needs MEDSEG_AXE_JS, the path of axe.min.js")
@pytest.mark.parametrize("name", ["case", "cohort", "measurements"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(pages, tmp_path, name, scheme) -> None:
    page = re.sub(r"<meta http-equiv[^>]*>", "", pages[name].read_text(encoding="utf-8"))
    checks = (
        f"axe.run(document, {{runOnly: {json.dumps(RULES)}}}).then(r => {{const p = document.createElement('pre');"
        "p.id = 'found'; p.textContent = JSON.stringify(r.violations.map(v => [v.id, v.nodes[0].html]));"
        "document.body.append(p)})"
    )
    script = f"<script>{Path(AXE).read_text(encoding='utf-8')}</script><script>{checks}</script></body>"
    checked = tmp_path / "checked.html"
    checked.write_text(page.replace("</body>", script), encoding="utf-8")
    preference = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    dom = chromium(tmp_path / "profile", preference, "--virtual-time-budget=20000", "--dump-dom", checked.as_uri())
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found
    assert json.loads(html.unescape(found.group(1))) == []
