from __future__ import annotations

import base64
import hashlib
import html
import re

import pytest

from medseg.report.cohort import render_cohort
from medseg.report.paper import for_paper


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_the_added_style_is_allowed_by_the_pages_own_policy(make_cohort, paper) -> None:
    page = for_paper(render_cohort(make_cohort(), case_pages={}), paper)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1))
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert styles[1] == f"@page {{ size: {paper}; }}"
    for style in styles:
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy.split("script-src")[0]


def test_links_to_files_are_gone_and_those_inside_the_page_stay(make_cohort, inspect) -> None:
    page = for_paper(render_cohort(make_cohort(), case_pages={"case_001": "cases/case_001.html"}), "A4")
    assert re.findall(r'<a [^>]*href="([^"]*)"', page) == ["#content"]
    assert "<a download>" in page  # the style sheet knows it by this, and leaves it out on paper
    assert inspect(page)[0] == []
