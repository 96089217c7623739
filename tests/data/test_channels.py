from __future__ import annotations

import pytest

from medseg.data.channels import channels_of


def test_a_known_number_of_channels_settles_a_single_case():
    assert channels_of(["a_0000", "a_0001"], num_channels=2) == {"a_0000": ("a", 0), "a_0001": ("a", 1)}
    assert channels_of(["a_0000", "a_0001"], num_channels=1) == {"a_0000": ("a_0000", 0), "a_0001": ("a_0001", 0)}


@pytest.mark.parametrize(
    ("stems", "expected"),
    [
        (["a_0000", "a_0001", "b_0000", "b_0001"], {"a": [0, 1], "b": [0, 1]}),
        (["a_0000", "b_0000"], {"a": [0], "b": [0]}),
        (["patient_0001", "patient_0002"], {"patient_0001": [0], "patient_0002": [0]}),
        (["a_0000", "a_0001", "b_0000"], {"a": [0, 1], "b": [0]}),
        (["a_0001", "b_0001"], {"a_0001": [0], "b_0001": [0]}),
        (["a_0000", "b"], {"a_0000": [0], "b": [0]}),
        ([f"phantom_{number:04d}" for number in range(30)], {f"phantom_{number:04d}": [0] for number in range(30)}),
    ],
)
def test_numbers_are_channels_only_when_cases_count_from_zero(stems, expected):
    found: dict[str, list[int]] = {}
    for case, channel in channels_of(stems).values():
        found.setdefault(case, []).append(channel)
    assert found == expected
