"""Flags of volumes that are not what a model was trained on."""

import numpy as np
import pytest

from medseg.core.case import Case, Dataset
from medseg.core.geometry import Geometry
from medseg.core.plan import Normalisation
from medseg.core.volume import Volume
from medseg.planning.fingerprint import fingerprint_of, measure_case, whole_intensities
from medseg.planning.strangeness import other_channels, strangeness

TURNED = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # axes run to S, R, A


def ct(shape=(20, 24, 16), spacing_mm=(2.0, 2.0, 4.0), shift=0.0, modality=None, direction=None) -> Volume:
    """Air around a body of 40 HU with a little noise and a few dense voxels."""
    array = np.full((1, *shape), -1000.0)
    array[0, 4:-4, 4:-4] = 40 + np.random.default_rng(0).normal(0, 20, array[0, 4:-4, 4:-4].shape)
    array[0, 8, 8] = 800
    geometry = Geometry.from_parts(shape, spacing_mm, np.eye(3) if direction is None else direction, (5.0, -7.0, 90.0))
    return Volume((array + shift).astype(np.int16), geometry, modality=modality)


@pytest.fixture
def model(workspace):
    """A plan for CT and the fingerprint of three cases of 40x48x64 mm."""
    from medseg.io.bundle import read_bundle

    plan = read_bundle(workspace.newest_bundle()).plan
    plan = plan.model_copy(update={"channels": ("CT",), "normalisation": (Normalisation(scheme="fixed"),)})
    cases = tuple(Case(id=f"c{n}", patient=f"p{n}", images=("x.nii.gz",)) for n in range(3))
    dataset = Dataset(name="d", channels=("CT",), cases=cases)
    measured = [measure_case(case, dataset, ct(), labels=None) for case in cases]
    return plan, fingerprint_of(measured, cases)


def codes(volume, model) -> list[str]:
    return [flag.split(":")[0] for flag in strangeness(volume, *model)]


def test_percentiles_of_the_whole_image():
    array = np.arange(1001.0).reshape(1, 7, 11, 13)
    ((low, middle, high),) = whole_intensities(array)
    assert (low, middle, high) == pytest.approx((5, 500, 995))


def test_what_was_trained_on_is_not_flagged(model):
    assert strangeness(ct(), *model) == ()
    assert strangeness(ct((16, 20, 24), (4.0, 2.0, 2.0), direction=TURNED), *model) == ()
    assert strangeness(ct(shift=30), *model) == ()


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (ct(spacing_mm=(2.0, 2.0, 5.5)), ["W-FINGERPRINT"]),
        (ct(spacing_mm=(1.5, 2.0, 4.0)), ["W-FINGERPRINT"]),
        (ct((20, 24, 40)), ["W-FINGERPRINT"]),
        pytest.param(ct((20, 24, 7)), ["W-FINGERPRINT"], id="Q03-cropped"),
        pytest.param(ct(shift=1024), ["W-INTENSITY"], id="Q03-intensities"),
        (ct(modality="MR"), ["W-MODALITY"]),
        (ct(modality="PT", shift=3000), ["W-MODALITY", "W-INTENSITY"]),
        (ct(modality="CT"), []),
    ],
)
def test_what_is_strange_is_flagged(model, volume, expected):
    assert codes(volume, model) == expected


def test_the_numbers_stand_in_the_flag(model):
    (flag,) = strangeness(ct(spacing_mm=(2.0, 2.0, 5.5)), *model)
    assert flag == "W-FINGERPRINT: voxels of 2x2x5.5 mm along R, A, S; in training it was 2x2x4 to 2x2x4 mm"
    (flag,) = strangeness(ct(shift=1024), *model)
    assert "0.5th percentile of 24, in training it was -1000 to -1000" in flag


def test_uncalibrated_intensities_and_unknown_training_are_left_alone(model):
    plan, fingerprint = model
    free = plan.model_copy(update={"channels": ("T1",), "normalisation": (Normalisation(scheme="per_image"),)})
    assert strangeness(ct(shift=5000), free, fingerprint) == ()
    assert codes(ct(modality="CT"), (free, fingerprint)) == ["W-MODALITY"]
    assert codes(ct(modality="MR"), (free, fingerprint)) == []
    assert strangeness(ct(shift=5000, spacing_mm=(9.0, 9.0, 9.0)), plan, None) == ()


@pytest.mark.parametrize(
    ("said", "channels", "flags"),
    [
        ((), ("CT",), ()),
        (("ct",), ("CT",), ()),
        (("MR",), ("CT",), ("W-MODALITY: the model takes CT, the manifest says MR",)),
        (("CT",), ("T1",), ("W-MODALITY: the model takes T1, the manifest says CT",)),
        (("image",), ("CT",), ()),
        (("T1",), ("MRI",), ()),
        (("T1", "CT"), ("T1", "PET"), ("W-MODALITY: the model takes PET, the manifest says CT",)),
        (
            ("T2", "T1"),
            ("T1", "T2"),
            ("W-MODALITY: the model takes T1, T2 in this order, the manifest has T2, T1",),
        ),
    ],
)
def test_a_manifest_that_names_other_channels_than_the_model(said, channels, flags):
    assert other_channels(said, channels) == flags
