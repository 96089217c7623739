"""Whether a lesion has changed, and how fast."""

from __future__ import annotations

import math

from pydantic import Field

from medseg.core.document import Document
from medseg.core.followup import DoublingTime, LesionState
from medseg.core.measurements import Measurement


class ChangeRules(Document):
    """Section `change` of configs/follow_up.yaml, where each number is explained."""

    grown: float = Field(gt=0)
    shrunk: float = Field(gt=-1, lt=0)
    coverage: float = Field(ge=0)


def change_state(before: Measurement, now: Measurement, *, rules: ChangeRules) -> LesionState:
    """Grown or shrunk where the volume changed by the rules' share and by more than its uncertainty, else stable."""
    change_ml = now.volume_ml - before.volume_ml
    uncertainty_ml = math.hypot(before.volume_uncertainty_ml, now.volume_uncertainty_ml) / math.sqrt(3)
    if abs(change_ml) <= rules.coverage * uncertainty_ml:
        return "stable"
    share = change_ml / before.volume_ml
    return "grown" if share >= rules.grown else "shrunk" if share <= rules.shrunk else "stable"


def doubling_time(before: Measurement, now: Measurement, *, days: int, since: str) -> DoublingTime | None:
    """None without growth or without time in between. Schwartz, Cancer 1961;14:1272."""
    if days <= 0 or now.volume_ml <= before.volume_ml:
        return None

    def time(earlier_ml: float, later_ml: float) -> float | None:
        return days * math.log(2) / math.log(later_ml / earlier_ml) if later_ml > earlier_ml else None

    low_ml = before.volume_ml - before.volume_uncertainty_ml
    fastest = time(low_ml, now.volume_ml + now.volume_uncertainty_ml) if low_ml > 0 else 0.0
    slowest = time(before.volume_ml + before.volume_uncertainty_ml, max(0.0, now.volume_ml - now.volume_uncertainty_ml))
    return DoublingTime(
        days=time(before.volume_ml, now.volume_ml) or 0.0, low_days=fastest or 0.0, high_days=slowest, since=since
    )
