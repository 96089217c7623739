"""The page of codes and the code agree."""

from __future__ import annotations

import re
from pathlib import Path

import medseg.io

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
MADE_UP_AT_RUN_TIME: set[str] = set()


def test_every_code_of_the_io_layer_is_on_the_page():
    sources = "".join(path.read_text() for path in Path(medseg.io.__path__[0]).glob("*.py"))
    raised = set(re.findall(r'"([EW]-[A-Z0-9]+(?:-[A-Z0-9]+)*)"', sources)) | MADE_UP_AT_RUN_TIME
    listed = set(re.findall(r"`([EW]-[A-Z0-9-]+)`", PAGE.read_text()))
    assert len(raised) > 60
    assert raised - listed == set()
