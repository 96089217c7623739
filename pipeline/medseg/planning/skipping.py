"""Whether windows that hold nothing may be left out at inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.core.plan import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.core.plan import Plan


def decide_skipping(plan: Plan, *, losing: Sequence[str], num_checked: int, has_air: bool) -> Plan:
    """The plan with `skip_constant_windows` and its reason.

    Args:
        plan: Without it.
        losing: Cases with a labelled voxel that a blank window may hold.
        num_checked: Labelled training cases that were looked at.
        has_air: Whether normalisation gives air one value.
    """
    if not plan.labels or not num_checked:
        may, reason = False, "no training case has labels to look at"
    elif not has_air:
        may, reason = False, "normalisation gives air no value that all images share"
    elif min(plan.patch_size) < 2:
        may, reason = False, "windows are one voxel thick"
    elif losing:
        may = False
        reason = (
            f"in {len(losing)} of {num_checked} training cases ({losing[0]}) a labelled voxel lies in nothing but air"
        )
    else:
        may = True
        reason = f"in all {num_checked} labelled training cases no window that holds nothing can hold a labelled voxel"
    decision = Decision(what="windows of nothing", value="skipped" if may else "run", reason=reason)
    return plan.model_copy(update={"skip_constant_windows": may, "decisions": (*plan.decisions, decision)})
