"""Left and right: whether a mirrored patient is still a plausible one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.core.plan import Fingerprint

_ENOUGH = 5


def mirror_axes(
    fingerprint: Fingerprint, pairs: Sequence[tuple[str, str]], *, directed: bool = False
) -> tuple[tuple[int, ...], str]:
    """Which patch axes augmentation may flip, and why.

    Only left-right is ever a plausible patient, and only when no unpaired label lives on one side: mirroring a liver
    to the left teaches a body that does not exist and makes it a spleen. Of shapes alone, nobody knows what they are:
    where they are measured direction by direction (`directed`), a mirrored one is taken for another.
    """
    if all(channel.two_valued for channel in fingerprint.channels):
        if directed:
            return (), "how a shape lies may tell its class, and a mirrored one lies otherwise"
        return (0, 1, 2), "all axes: a shape alone has no up and down"
    paired = {name for pair in pairs for name in pair}
    sides: dict[str, list[float]] = {}
    for case in fingerprint.cases:
        for name, side in case.label_sides.items():
            if name not in paired:
                sides.setdefault(name, []).append(side)
    one_sided = [
        name
        for name, values in sides.items()
        if len(values) >= _ENOUGH and abs(np.median(values)) > 0.1 and abs(np.sign(values).sum()) >= 0.9 * len(values)
    ]
    if one_sided:
        return (), f"{', '.join(one_sided)} always lies on one side: a mirrored patient would not be one"
    if pairs:
        names = ", ".join(f"{left}/{right}" for left, right in pairs)
        return (0,), f"left-right only; the labels of each pair are exchanged ({names})"
    return (0,), "left-right only: upside-down or back-to-front patients do not occur"
