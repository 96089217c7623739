"""The filter above the table of cases, in headless Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from medseg.report.cohort import render_cohort

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH"),
]


def dom_of(page: str, folder: Path) -> str:
    """What stands in the page once its scripts have run."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    command = [str(CHROMIUM), *options, file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_filter_shows_itself_under_the_policy(make_cohort, tmp_path) -> None:
    page = render_cohort(make_cohort(), case_pages={})
    assert '<p class="controls" hidden data-filter="cases">' in page
    assert '<p class="controls" data-filter="cases">' in dom_of(page, tmp_path)


def test_the_filter_hides_rows_without_the_words(make_cohort, tmp_path) -> None:
    typed = (
        "<script>const i = document.querySelector('[data-filter] input'); i.value = 'case_003';"
        "i.dispatchEvent(new Event('input'))</script></body>"
    )
    page = re.sub(r"<meta http-equiv[^>]*>", "", render_cohort(make_cohort(), case_pages={}))
    dom = dom_of(page.replace("</body>", typed), tmp_path)
    assert "1 of 6" in dom
    assert dom.count("<tr hidden") == 5
