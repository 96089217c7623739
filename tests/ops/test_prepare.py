from __future__ import annotations

import tracemalloc
import weakref
from itertools import permutations, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Compose
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.plan import IGNORE_INDEX, Plan
from medseg.core.volume import LabelMap, Volume
from medseg.ops import restore
from medseg.ops.chain import prepare_transform
from medseg.ops.prepare import Prepared, label_indices, label_values, to_network
from medseg.ops.resample import resample
from medseg.ops.restore import to_source

ORIENTATIONS = tuple(product(permutations(range(3)), product((1, -1), repeat=3)))
SPACING, SHAPE = (0.8, 1.5, 2.75), (11, 8, 6)
NETWORK = {
    "features": [4, 8],
    "strides": [[1, 1, 1], [2, 2, 1]],
    "kernels": [[3, 3, 1], [3, 3, 3]],
    "blocks": [1, 1],
}


def _plan(spacing, *, crop="none", labels=None, coarse_axis=None, rules=({"scheme": "per_image"},)):
    return Plan.parse(
        {
            "dataset": "d",
            "channels": ["MRI"] * len(rules),
            "labels": labels or {"a": 3, "b": 1, "c": 300},
            "spacing_mm": spacing,
            "crop": crop,
            "normalisation": rules,
            "coarse_axis": coarse_axis,
            "patch_size": [8, 8, 8],
            "batch_size": 2,
            "mirror_axes": [],
            "network": NETWORK,
        }
    )


def _grid(orientation, angles=(0, 0, 0), shape=SHAPE, spacing=SPACING):
    order, signs = orientation
    columns = np.zeros((3, 3))
    for array_axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        columns[world, array_axis] = sign
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return Geometry.from_parts(shape, spacing, turn @ columns, (-61.5, 14.25, 733.0))


def _case(geometry, *, seed=0, channels=1):
    random = np.random.default_rng(seed)
    image = random.normal(100, 20, size=(channels, *geometry.shape)).astype(np.float32)
    return Volume(image, geometry), LabelMap(random.choice([0, 1, 3, 300], geometry.shape).astype(np.uint16), geometry)


def _one_hot(labels, count):
    return torch.nn.functional.one_hot(labels.long(), count).permute(3, 0, 1, 2).float()


def _blobs(geometry, count):
    """Smooth blobs placed in world space, as label values 1 and 3."""
    axes = [np.linspace(-1, 1, size) for size in geometry.shape]
    i, j, k = np.meshgrid(*axes, indexing="ij")
    labels = np.zeros(geometry.shape, np.uint8)
    labels[(i + 0.3) ** 2 + (j - 0.1) ** 2 + k**2 < 0.3] = 1
    labels[(i - 0.5) ** 2 / 0.2 + (j + 0.3) ** 2 / 0.3 + (k - 0.2) ** 2 / 0.3 < 1] = count
    return labels


@pytest.mark.parametrize("angles", [(0, 0, 0), (12, -17, 9)])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_labels_come_back_exactly_on_their_own_grid(orientation, angles):
    geometry = _grid(orientation, angles)
    volume, labels = _case(geometry)
    plan = _plan(geometry.canonical().spacing_mm)
    prepared = to_network(volume, plan, labels=labels)
    assert prepared.geometry.agrees_with(geometry.canonical(), tolerance_mm=1e-6)
    assert prepared.source is geometry
    answer = to_source([_one_hot(prepared.labels, plan.num_outputs)], prepared)
    assert answer.shape == geometry.shape
    assert np.array_equal(label_values(answer, plan), labels.array)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.floats(-20, 20)] * 3),
    st.tuples(*[st.floats(0.7, 1.3)] * 3),
)
def test_smooth_labels_come_back_through_another_spacing(orientation, angles, factors):
    geometry = _grid(orientation, angles, shape=(30, 36, 24), spacing=(1.1, 0.9, 1.4))
    labels = LabelMap(_blobs(geometry, 3), geometry)
    spacing = tuple(np.multiply(geometry.canonical().spacing_mm, factors).tolist())
    plan = _plan(spacing)
    prepared = to_network(Volume(labels.array[None] + 1, geometry), plan, labels=labels)
    np.testing.assert_allclose(prepared.geometry.spacing_mm, spacing, rtol=0.05)
    answer = label_values(to_source([_one_hot(prepared.labels, plan.num_outputs)], prepared), plan)
    for value in (1, 3):
        mine, truth = answer == value, labels.array == value
        assert 2 * (mine & truth).sum() / (mine.sum() + truth.sum()) > 0.93


def test_an_image_lies_where_it_lay():
    """The network's image is the source's, sampled at the network grid's world positions."""
    geometry = _grid(((1, 2, 0), (-1, 1, -1)), (8, -11, 14), shape=(14, 17, 12))
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=geometry.shape), 2).astype(np.float32)
    plan = _plan((1.9, 1.1, 1.3), rules=({"scheme": "fixed"},))
    prepared = to_network(Volume(smooth[None], geometry), plan)
    index = np.stack(np.meshgrid(*map(np.arange, prepared.geometry.shape), indexing="ij"), axis=-1)
    there = geometry.to_index(prepared.geometry.to_world(index))
    there = np.clip(there, 0, np.array(geometry.shape) - 1)
    peer = ndimage.map_coordinates(smooth.astype(float), np.moveaxis(there, -1, 0), order=3, mode="mirror")
    np.testing.assert_allclose(prepared.image[0], peer, atol=1e-4)


class Kept:
    """Probabilities put together from their blocks."""

    def __init__(self, count, shape) -> None:
        self.array = np.full((count, *shape), -1, np.float16)

    def begin(self, chunk) -> None:
        self.chunk = chunk

    def write(self, channel, start, block) -> None:
        assert all(first % size == 0 for first, size in zip(start, self.chunk, strict=True))
        box = tuple(slice(first, first + size) for first, size in zip(start, block.shape, strict=True))
        assert (self.array[channel][box] == -1).all()
        self.array[channel][box] = block


def probabilities(logits, prepared):
    kept = Kept(len(logits), prepared.source.shape)
    to_source([logits], prepared, probabilities=kept)
    return kept.array


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
def test_the_crop_to_nonzero_is_undone_with_background_outside(orientation):
    geometry = _grid(orientation, (5, 9, -7))
    volume, labels = _case(geometry, channels=2)
    inside = np.zeros(geometry.shape, dtype=bool)
    inside[2:9, 1:6, 3:5] = True
    image = np.where(inside, volume.array, 0)
    image[0, 2] = 0
    plan = _plan(geometry.canonical().spacing_mm, crop="nonzero", rules=({"scheme": "per_image", "nonzero": True},) * 2)
    prepared = to_network(Volume(image, geometry), plan, labels=labels)
    assert sorted(prepared.geometry.shape) == [2, 5, 7]
    logits = _one_hot(prepared.labels, plan.num_outputs)
    answer = label_values(to_source([logits], prepared), plan)
    assert np.array_equal(answer, np.where(inside, labels.array, 0))
    shares = probabilities(logits, prepared)
    assert shares.shape == (4, *geometry.shape)
    np.testing.assert_allclose(shares.sum(0, dtype=np.float32), 1, atol=2e-3)
    assert (shares[0][~inside] == 1).all()
    assert np.array_equal(shares.argmax(0)[inside], label_indices(labels.array, plan)[inside])


def test_an_image_of_zeros_keeps_its_grid():
    geometry = _grid(ORIENTATIONS[9])
    plan = _plan(geometry.canonical().spacing_mm, crop="nonzero")
    prepared = to_network(Volume(np.zeros((1, *SHAPE), np.float32), geometry), plan)
    assert prepared.geometry.agrees_with(geometry.canonical())
    assert prepared.image.abs().max() == 0


def test_the_background_stays_zero_after_resampling():
    """A z-score over the nonzero voxels must not take in what a spline leaves of the background."""
    geometry = _grid(ORIENTATIONS[0], shape=(40, 40, 40), spacing=(1, 1, 1))
    image = np.zeros((1, 40, 40, 40), np.float32)
    image[:, :10], image[:, -10:] = 500 + np.random.default_rng(0).normal(size=(2, 1, 10, 40, 40))
    plan = _plan((0.8, 1, 1), rules=({"scheme": "per_image", "nonzero": True},))
    prepared = to_network(Volume(image, geometry), plan)
    middle = prepared.image[0, 18:32]
    assert middle.abs().max() < 0.01
    assert prepared.image[0, :10].std() > 0.5


def test_normalises_in_source_units_before_resampling():
    geometry = _grid(ORIENTATIONS[0], shape=(12, 10, 8), spacing=(1, 1, 1))
    volume, _ = _case(geometry)
    rule = {"scheme": "fixed", "lower": 80, "upper": 120, "mean": 100, "std": 10}
    prepared = to_network(volume, _plan((2, 1, 1), rules=(rule,)))
    clipped = (torch.from_numpy(volume.array).clamp(80, 120) - 100) / 10
    torch.testing.assert_close(prepared.image, resample(clipped, (6, 10, 8)), atol=1e-5, rtol=1e-5)


def test_a_coarse_axis_is_interpolated_linearly():
    geometry = _grid(ORIENTATIONS[0], shape=(12, 10, 8), spacing=(1, 1, 5))
    volume, _ = _case(geometry)
    plan = _plan((0.8, 1, 4), coarse_axis=2, rules=({"scheme": "fixed"},))
    expected = resample(torch.from_numpy(volume.array), (15, 10, 10), orders=(3, 3, 1))
    torch.testing.assert_close(to_network(volume, plan).image, expected, atol=1e-4, rtol=1e-5)


def test_the_input_is_left_alone():
    geometry = _grid(ORIENTATIONS[3])
    volume, labels = _case(geometry)
    before = volume.array.copy(), labels.array.copy()
    to_network(volume, _plan((1, 1, 1)), labels=labels)
    assert np.array_equal(before[0], volume.array)
    assert np.array_equal(before[1], labels.array)


@pytest.mark.parametrize("kind", ["<i2", ">i2", "u2", "u1", "f8", "i1"])
def test_stored_numbers_of_any_kind_in_any_order(kind):
    geometry = _grid(ORIENTATIONS[3])
    array = np.random.default_rng(2).integers(0, 100, (1, *geometry.shape))
    plan = _plan((1, 1, 1), rules=({"scheme": "fixed", "lower": 10, "mean": 30, "std": 9},))
    expected = to_network(Volume(array.astype(np.float32), geometry), plan).image
    locked = np.asfortranarray(array.astype(kind))
    locked.flags.writeable = False
    turned = np.ascontiguousarray(array.astype(kind)[:, ::-1, :, ::-1])[:, ::-1, :, ::-1]
    for stored in (array.astype(kind), locked, turned):
        found = to_network(Volume(stored, geometry), plan).image
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_preparation_is_one_monai_compose():
    names = {"fixed": ["Orientationd", "ToNonzero", "ToSpacing"]}
    names["per_image"] = [*names["fixed"][:2], "Intensity", "ToSpacing"]
    for scheme, expected in names.items():
        transform = prepare_transform(_plan((1, 1, 1), crop="nonzero", rules=({"scheme": scheme},)))
        assert isinstance(transform, Compose)
        assert [type(step).__name__ for step in transform.transforms] == expected


def test_label_values_undo_label_indices_with_16_bit_values_and_ignore():
    plan = _plan((1, 1, 1), labels={"a": 3, "b": 1, "c": 60000})
    array = np.array([0, 1, 3, 60000, 999, 7], dtype=np.uint16)
    indices = label_indices(array, plan, ignore=7)
    assert indices.dtype == np.uint8
    assert indices.tolist() == [0, 1, 2, 3, 0, IGNORE_INDEX]
    back = label_values(indices[:4], plan)
    assert (back.dtype, back.tolist()) == (np.uint16, [0, 1, 3, 60000])
    assert label_values(indices[:2], _plan((1, 1, 1), labels={"a": 255})).dtype == np.uint8


def test_ignored_voxels_survive_the_way_to_the_network():
    geometry = _grid(ORIENTATIONS[20])
    volume, labels = _case(geometry)
    labels.array[:, :2] = 77
    prepared = to_network(volume, _plan(geometry.canonical().spacing_mm), labels=labels, ignore=77)
    assert int((prepared.labels == IGNORE_INDEX).sum()) == int((labels.array == 77).sum())


def test_a_reference_on_another_grid_is_refused():
    geometry = _grid(ORIENTATIONS[0])
    volume, labels = _case(geometry)
    moved = LabelMap(labels.array, _grid(ORIENTATIONS[1]))
    with pytest.raises(GeometryError) as caught:
        to_network(volume, _plan((1, 1, 1)), labels=moved)
    assert caught.value.code == "E-GRID-MISMATCH"


def test_an_answer_on_a_grid_that_is_not_parallel_is_refused():
    prepared = Prepared(torch.zeros(1, *SHAPE), None, _grid(ORIENTATIONS[0]), _grid(ORIENTATIONS[0], (0, 0, 3)))
    with pytest.raises(GeometryError, match="not parallel") as caught:
        to_source([torch.zeros(2, *SHAPE)], prepared)
    assert caught.value.code == "E-GRID-MISMATCH"


class Nowhere:
    """Takes probabilities and keeps none."""

    def begin(self, chunk) -> None:
        pass

    def write(self, channel, start, block) -> None:
        pass


@pytest.mark.parametrize("sink", [None, Nowhere()])
def test_memory_does_not_grow_with_the_number_of_classes(monkeypatch, sink):
    network = _grid(ORIENTATIONS[0], shape=(16, 16, 16), spacing=(4, 4, 4))
    prepared = Prepared(torch.zeros(1, 16, 16, 16), None, network, network.resized((64, 64, 64)))
    made, most = [], []
    interpolate = restore.sample

    def counted(*arguments):
        score = interpolate(*arguments)
        made.append(weakref.ref(score))
        most.append(sum(reference() is not None for reference in made))
        return score

    monkeypatch.setattr(restore, "sample", counted)
    peaks = []
    for count in (3, 60):
        logits = torch.zeros(count, 16, 16, 16)
        logits[2] = 1
        tracemalloc.start()
        answer = to_source([logits], prepared, probabilities=sink)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (answer == 2).all()
    assert max(most, default=0) <= 3
    assert peaks[1] < 1.1 * peaks[0]


def test_slabs_do_not_show(monkeypatch):
    geometry = _grid(ORIENTATIONS[30], (4, 5, 6), shape=(19, 23, 17))
    logits = torch.randn(5, 12, 14, 9)
    prepared = Prepared(torch.zeros(1, 12, 14, 9), None, geometry.canonical().resized((12, 14, 9)), geometry)
    whole, shares = to_source([logits], prepared), probabilities(logits, prepared)
    monkeypatch.setattr("medseg.ops.restore._SLAB_BYTES", 1)
    assert np.array_equal(to_source([logits], prepared), whole)
    np.testing.assert_allclose(probabilities(logits, prepared), shares, atol=1e-3)
    assert (shares.argmax(0) == whole).mean() > 0.999
    for lead in range(3):
        parts = logits.movedim(lead + 1, 1).split([1, 4, logits.shape[lead + 1] - 5], dim=1)
        assert np.array_equal(to_source(parts, prepared.led_by(lead)), whole)


@pytest.mark.parametrize("logit_bytes", [1, 3000, 2**30])
def test_thin_slabs_of_many_classes_do_not_show(monkeypatch, logit_bytes):
    geometry = _grid(ORIENTATIONS[30], (4, 5, 6), shape=(19, 23, 17))
    logits = torch.randn(20, 12, 14, 9)
    prepared = Prepared(torch.zeros(1, 12, 14, 9), None, geometry.canonical().resized((12, 14, 9)), geometry)
    whole, kept = to_source([logits], prepared), probabilities(logits, prepared)
    monkeypatch.setattr("medseg.ops.restore._LOGIT_BYTES", logit_bytes)
    monkeypatch.setattr("medseg.ops.restore._LEAST_CHUNK_BYTES", 1)
    np.testing.assert_allclose(probabilities(logits, prepared), kept, atol=1e-3)
    for lead in range(3):
        led = prepared.led_by(lead)
        parts = logits.movedim(lead + 1, 1).split([1, 4, logits.shape[lead + 1] - 5], dim=1)
        assert np.array_equal(to_source(parts, led), whole)
        side_by_side = [part.movedim(0, -1).contiguous().movedim(-1, 0) for part in parts]
        assert np.array_equal(to_source(side_by_side, led), whole)
        shares = [probabilities(torch.cat(pieces, dim=1), led) for pieces in (parts, side_by_side)]
        assert np.array_equal(*shares)


def test_slabs_of_logits_are_let_go_once_they_are_used(monkeypatch):
    monkeypatch.setattr("medseg.ops.restore._LOGIT_BYTES", 1)
    network = _grid(ORIENTATIONS[0], shape=(16, 8, 8), spacing=(4, 4, 4))
    prepared = Prepared(torch.zeros(1, 16, 8, 8), None, network, network.resized((32, 16, 16)))
    made = []

    def parts():
        for _ in range(4):
            assert sum(storage() is not None for storage in made) == 0
            part = torch.randn(3, 4, 8, 8)
            made.append(weakref.ref(part.untyped_storage()))
            yield part
            del part

    to_source(parts(), prepared)
    assert len(made) == 4


@pytest.mark.parametrize(("count", "rows"), [(2, 16), (40, 4), (400, 2)])
def test_chunks_of_probabilities_hold_fewer_rows_of_more_classes_but_are_not_tiny(monkeypatch, count, rows):
    monkeypatch.setattr("medseg.ops.restore._LOGIT_BYTES", 40 * 4 * 4 * 16 * 16)  # 4 rows of 40 classes
    monkeypatch.setattr("medseg.ops.restore._LEAST_CHUNK_BYTES", 2 * 2 * 16 * 16)  # 2 rows of one class
    network = _grid(ORIENTATIONS[0], shape=(16, 16, 16))
    begun = []
    sink = SimpleNamespace(begin=begun.append, write=lambda *_: None)
    to_source(
        [torch.zeros(count, 16, 16, 16)],
        Prepared(torch.zeros(1, 16, 16, 16), None, network, network),
        probabilities=sink,
    )
    assert begun == [(rows, 16, 16)]


@pytest.mark.parametrize("shape", [(1, 9, 7), (9, 1, 1)])
def test_a_single_plane_is_a_volume_too(shape):
    geometry = _grid(ORIENTATIONS[0], shape=shape)
    volume, labels = _case(geometry)
    plan = _plan((0.8, 3.0, 1.375))
    prepared = to_network(volume, plan, labels=labels)
    assert to_source([_one_hot(prepared.labels, plan.num_outputs)], prepared).shape == shape
