"""What a verb would do, and what it would cost."""

from __future__ import annotations

from medseg.core.document import Document


class Forecast(Document):
    """Lines of (what, value), in order."""

    rows: tuple[tuple[str, str], ...]
