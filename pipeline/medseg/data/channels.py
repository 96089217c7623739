"""File names that number the channels of a case, as nnU-Net writes them: `liver_0000`, `liver_0001`."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"_(\d{4})$")


def channels_of(stems: Sequence[str], *, num_channels: int | None = None) -> dict[str, tuple[str, int]]:
    """Split each stem into its case and channel number.

    Only when every stem ends in a number and every case counts from 0 without a gap: up to `num_channels` where it is
    known; where it is not, there must be more than one case, or only one file. Otherwise the numbers count patients
    (`patient_0001`, `patient_0002`), and every stem is a case of its own with channel 0.
    """
    matches = {stem: _NUMBER.search(stem) for stem in stems}
    split = {stem: (stem[: match.start()], int(match[1])) for stem, match in matches.items() if match}
    cases: dict[str, list[int]] = {}
    for case, number in split.values():
        cases.setdefault(case, []).append(number)
    counts_from_zero = all(sorted(numbers) == list(range(len(numbers))) for numbers in cases.values())
    if num_channels is None:
        plausible = len(cases) > 1 or len(split) == 1
    else:
        plausible = all(len(numbers) == num_channels for numbers in cases.values())
    if len(split) == len(matches) and counts_from_zero and plausible:
        return split
    return {stem: (stem, 0) for stem in stems}
