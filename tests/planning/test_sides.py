from __future__ import annotations

from medseg.core.plan import CaseFingerprint, ChannelStatistics, Fingerprint
from medseg.planning.sides import mirror_axes


def _fingerprint(sides):
    """One case per row of {label: side}."""
    statistics = ChannelStatistics(
        mean=0, std=1, median=0, percentile_00_5=-2, percentile_99_5=2, minimum=-3, maximum=3
    )
    return Fingerprint(
        num_cases=len(sides),
        median_spacing_mm=(1, 1, 1),
        coarse_spacing_mm=(1, 1, 1),
        median_shape=(64, 64, 64),
        median_extent_mm=(64, 64, 64),
        crop_share=1,
        channels=(statistics,),
        class_counts={},
        cases=tuple(
            CaseFingerprint(
                id=f"c{number}",
                shape=(64, 64, 64),
                spacing_mm=(1, 1, 1),
                cropped_shape=(64, 64, 64),
                label_voxels=dict.fromkeys(row, 1),
                label_sides=row,
            )
            for number, row in enumerate(sides)
        ),
    )


def test_a_label_on_one_side_forbids_mirroring():
    axes, reason = mirror_axes(_fingerprint([{"liver": 0.4}] * 6), ())
    assert axes == ()
    assert "liver always lies on one side" in reason


def test_one_case_in_ten_on_the_other_side_makes_no_rule_but_one_in_twenty_is_noise():
    assert mirror_axes(_fingerprint([{"cyst": 0.4}] * 9 + [{"cyst": -0.4}]), ())[0] == (0,)
    assert mirror_axes(_fingerprint([{"liver": 0.4}] * 19 + [{"liver": -0.4}]), ())[0] == ()


def test_a_label_in_the_middle_or_on_either_side_allows_it():
    assert mirror_axes(_fingerprint([{"spine": 0.05}] * 8), ())[0] == (0,)
    assert mirror_axes(_fingerprint([{"tumour": side} for side in (0.4, -0.5) * 4]), ())[0] == (0,)


def test_too_few_cases_make_no_rule():
    assert mirror_axes(_fingerprint([{"liver": 0.4}] * 4), ())[0] == (0,)
    assert mirror_axes(_fingerprint([{"liver": 0.4}] * 5), ())[0] == ()


def test_pairs_are_exchanged_and_do_not_forbid():
    rows = [{"kidney_l": -0.5, "kidney_r": 0.5}] * 6
    axes, reason = mirror_axes(_fingerprint(rows), (("kidney_l", "kidney_r"),))
    assert axes == (0,)
    assert "kidney_l/kidney_r" in reason
    assert mirror_axes(_fingerprint(rows), ())[0] == ()
