"""Every fault of a file that can be known, and only what the user allowed is taken."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.reading import Reading
from medseg.io.examine import examine_image, examine_label

STRICT = Reading()


def codes(found):
    return [fault.code for fault in found.faults]


def test_a_sound_file_has_no_fault(recipes):
    found = examine_image(recipes.save(recipes.nifti()), allowed=STRICT)
    assert codes(found) == []
    assert found.moved_mm == 0
    np.testing.assert_array_equal(found.content.array[0], recipes.volume())


def test_several_faults_of_one_file(recipes):
    """No orientation, NaN and a sheared grid in one header would be told one after the other by the reader."""
    array = recipes.volume(dtype=np.float32)
    array[1, 1, 1] = np.nan
    affine = recipes.with_affine(a12=2.5 * np.tan(np.deg2rad(15)))
    sheared = recipes.patched(("qform_code", "h", 0), data=recipes.nifti(array, affine))
    assert codes(examine_image(recipes.save(sheared), allowed=STRICT)) == ["E-NONFINITE", "E-GEOM-SHEAR"]
    lost = recipes.patched(("qform_code", "h", 0), ("sform_code", "h", 0), data=recipes.nifti(array))
    assert codes(examine_image(recipes.save(lost), allowed=STRICT)) == ["E-NO-ORIENTATION", "E-NONFINITE"]


def test_a_mask_with_fractions_and_negative_values(recipes):
    array = np.zeros((8, 8, 8), np.float32)
    array[1, 1, 1], array[2, 2, 2] = 0.5, -3
    found = examine_label(recipes.save(recipes.nifti(array)), allowed=STRICT)
    assert codes(found) == ["E-LABEL-RANGE", "E-LABEL-FRACTION"]


@pytest.mark.parametrize(
    ("allowed", "expected", "flags"),
    [
        (STRICT, ["E-GEOM-CONFLICT"], ()),
        (Reading(prefer="sform"), [], ("W-GEOM-SFORM",)),
        (Reading(prefer="qform"), [], ("W-GEOM-QFORM",)),
        (Reading(assume_orientation=True), ["E-GEOM-CONFLICT"], ()),
    ],
)
def test_a_conflict_is_settled_only_as_asked_for(recipes, allowed, expected, flags):
    path = recipes.save(recipes.two_transforms(recipes.turned_qform(), recipes.affine))
    found = examine_image(path, allowed=allowed)
    assert codes(found) == expected
    assert found.warnings == flags
    wanted = recipes.turned_qform() if allowed.prefer == "qform" else recipes.affine
    np.testing.assert_allclose(found.geometry.affine, wanted, atol=1e-4)


def test_a_preference_leaves_files_without_conflict_alone(recipes):
    found = examine_image(recipes.save(recipes.nifti()), allowed=Reading(prefer="qform"))
    assert (codes(found), found.warnings) == ([], ())


def test_orientation_is_assumed_only_when_allowed(recipes):
    path = recipes.save(recipes.nifti(codes=(0, 0)))
    assert codes(examine_image(path, allowed=STRICT)) == ["E-NO-ORIENTATION"]
    found = examine_image(path, allowed=Reading(assume_orientation=True))
    assert (codes(found), found.warnings) == ([], ("W-ORIENTATION-ASSUMED",))


def test_a_gap_in_a_series_is_named_and_looked_past(slices):
    folder = slices.series(lambda index, _: index != 5)
    found = examine_image(folder, allowed=STRICT)
    assert codes(found) == ["E-SERIES-GAP"]
    assert found.geometry.shape == (32, 40, 16)


def test_what_cannot_be_read_at_all_has_its_one_fault(recipes):
    found = examine_image(recipes.raw_gzip(b""), allowed=STRICT)
    assert codes(found) == ["E-EMPTY"]
    assert found.content is None
    assert found.warnings == ()


def test_the_number_of_channels_is_a_fault_among_others(recipes):
    found = examine_image(recipes.save(recipes.nifti()), channels=2)
    assert codes(found) == ["E-CHANNELS"]


def test_how_far_straightening_moves_a_corner(recipes):
    affine = recipes.with_affine(a10=0.02)
    path = recipes.save(recipes.patched(("qform_code", "h", 0), data=recipes.nifti(None, affine)))
    found = examine_image(path, allowed=STRICT)
    assert codes(found) == ["E-GEOM-SHEAR"]
    # 0.02 mm over 31 voxels leans 0.62 mm over the length of the axis, half of it on either side of the centre;
    # polar decomposition shares the angle between the two axes
    assert 0.1 < found.moved_mm < 0.62
    axes = found.geometry.direction
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(found.geometry.spacing_mm, np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-6)
