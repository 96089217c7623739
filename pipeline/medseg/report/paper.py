"""What a page loses and gains when it becomes a PDF."""

from __future__ import annotations

import html
import re
from typing import Literal

from medseg.report.html import policy_hash

Paper = Literal["A4", "Letter"]
_LINK = re.compile(r"<a\b(?![^>]*\bhref=\"#)( download\b)?[^>]*>")


def for_paper(page: str, paper: Paper) -> str:
    """The page on a size of paper, without links to files: in a PDF they would name folders of this machine.

    The page keeps its policy; the hash of the added style is put into it.

    Args:
        page: Made by `render`.
        paper: A4 or (US) Letter.
    """
    style = f"@page {{ size: {paper}; }}"
    allowed = html.escape(f"'{policy_hash(style)}'", quote=True)
    page = page.replace("style-src ", f"style-src {allowed} ", 1)
    page = page.replace("</style>", f"</style><style>{style}</style>", 1)
    return _LINK.sub(r"<a\1>", page)
