"""Region of interest first: the same windows in fewer places, and never a silent loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.core.geometry import Geometry
from medseg.core.settings import InferSettings
from medseg.core.volume import Volume
from medseg.data.manifest import read_manifest
from medseg.engine.predict import Predictor
from medseg.engine.region import foreground_box, region_of, widened
from medseg.engine.thrift import Thrift
from medseg.io.bundle import Bundle, read_bundle
from medseg.io.volumes import read_volume
from medseg.ops.prepare import Prepared
from medseg.ops.sliding import WindowGrid

PATCH = (8, 8, 8)


@pytest.fixture
def bundle(workspace) -> Bundle:
    """With windows small enough that a case holds many."""
    made = read_bundle(workspace.newest_bundle())
    plan = made.plan.model_copy(update={"patch_size": PATCH, "skip_constant_windows": False})
    return Bundle(made.folder, made.manifest, plan, made.weights)


@pytest.fixture
def volume(cohort) -> Volume:
    """A bright ball in a corner of the air, on the grid of a case."""
    grid = read_volume(read_manifest(cohort).cases[0].images[0]).geometry
    centre = np.array([0.3, 0.7, 0.3]) * grid.shape * grid.spacing_mm
    voxels = np.stack(np.meshgrid(*(np.arange(size) for size in grid.shape), indexing="ij"), axis=-1)
    inside = np.linalg.norm(voxels * grid.spacing_mm - centre, axis=-1) < 25
    return Volume(np.where(inside, 600, -1000).astype(np.int16)[None], grid)


def bright(segmented):
    """A network that calls what is bright a lesion; the rest of the window has its say, as with instance norm."""

    def segment(windows):
        segmented.append(len(windows))
        bright = 8 * windows[:, :1] + 0.1 * windows.mean((2, 3, 4), keepdim=True)
        return torch.cat([-bright, torch.full_like(bright, -9.0), bright], dim=1)

    return segment


def predictor(bundle, segmented, **settings):
    made = Predictor(bundle, InferSettings(amp=False, backend="torch", **settings))
    made._backends._segments = [bright(segmented)]
    return made


@pytest.mark.parametrize("lead", [0, 1, 2])
def test_the_box_of_what_may_be_foreground(lead):
    logits = torch.zeros(3, 9, 8, 7)
    logits[0] = 9
    logits[2, 3:5, 1, 2:6] = 20
    logits[1, 7, 4, 4] = 7.5  # less likely than background, but not certainly not
    logits[1, 0, 0, 0] = 6.5  # certainly not
    parts = logits.movedim(lead + 1, 1).split([2, 4, logits.shape[lead + 1] - 6], dim=1)
    assert foreground_box(parts, lead=lead, regions=False) == ((3, 1, 2), (8, 5, 6))
    assert foreground_box([logits[:, :, :1, :1]], lead=0, regions=False) is None


def test_regions_have_no_background_to_compare_with():
    logits = torch.full((2, 4, 4, 4), -3.0)
    assert foreground_box([logits], lead=0, regions=True) is None
    logits[1, 2, 3, 0] = -1.5
    assert foreground_box([logits], lead=0, regions=True) == ((2, 3, 0), (3, 4, 1))


def test_the_margin_is_in_millimetres_and_ends_at_the_border():
    grid = Geometry.from_parts((20, 20, 20), (1.0, 2.0, 6.0))
    assert widened(((2, 9, 9), (4, 10, 11)), grid, 7.0) == ((0, 5, 7), (11, 14, 13))


def test_the_record_speaks_of_the_source(volume):
    """A grid twice as coarse and turned: its voxels 1 to 4 along x hold the source's 2 to 8, counted from the end."""
    source = Geometry.from_parts((20, 20, 20), (1.0, 1.0, 1.0), np.diag([-1.0, 1.0, 1.0]))
    network = source.canonical().resized((10, 10, 10))
    prepared = Prepared(torch.zeros(1, 10, 10, 10), None, network, source)
    full = WindowGrid.over((10, 10, 10), (4, 4, 4), 0.5)
    fine = full.touching(((1, 0, 5), (4, 3, 10)))
    found = region_of(prepared, WindowGrid.over((10, 10, 10), (4, 4, 4), 0.0), full, fine, found=True)
    assert (found.start, found.stop) == ((12, 0, 10), (18, 6, 20))
    assert found.coarse_windows == 27
    assert found.left_out_windows == full.count - fine.count > 0


@pytest.mark.parametrize("tta", [False, True])
def test_in_the_region_the_mask_is_that_of_the_full_run_and_outside_nothing_is_lost(bundle, volume, tta):
    ran: dict[bool, list[int]] = {True: [], False: []}
    answers = {
        roi: predictor(bundle, ran[roi], roi=roi, roi_margin_mm=10.0, tta=tta).predict(volume) for roi in (False, True)
    }
    full, fast = answers[False], answers[True]
    assert full.labels is not None
    assert fast.labels is not None
    assert full.labels.array.any()
    assert np.array_equal(full.labels.array, fast.labels.array)
    assert full.region is None
    region = fast.region
    assert region is not None
    assert region.found
    inside = np.zeros(volume.geometry.shape, bool)
    inside[tuple(slice(*ends) for ends in zip(region.start, region.stop, strict=True))] = True
    assert not fast.labels.array[~inside].any()
    assert 0.05 < inside.mean() < 0.95
    copies = 2 ** len(bundle.plan.mirror_axes) if tta else 1
    assert sum(ran[False]) == full.windows * copies
    assert sum(ran[True]) == fast.windows * copies + region.coarse_windows
    assert fast.windows + region.left_out_windows == full.windows
    assert sum(ran[True]) < sum(ran[False])
    assert fast.classes["lesion_type"] == pytest.approx(full.classes["lesion_type"], abs=1e-3)


def test_where_the_coarse_pass_finds_nothing_everything_is_run(bundle, volume):
    dark = Volume(np.full_like(volume.array, -900), volume.geometry)
    ran: list[int] = []
    answer = predictor(bundle, ran, roi=True).predict(dark)
    assert answer.region is not None
    assert not answer.region.found
    assert (answer.region.start, answer.region.stop) == ((0, 0, 0), volume.geometry.shape)
    assert answer.region.left_out_windows == 0
    assert sum(ran) == answer.windows + answer.region.coarse_windows
    assert answer.windows == predictor(bundle, [], roi=False).predict(dark).windows
    assert any(flag.startswith("W-NO-REGION") for flag in answer.flags)


def test_where_there_is_nothing_to_spare_there_is_no_coarse_pass(bundle, volume):
    ran: list[int] = []
    answer = predictor(bundle, ran, roi=True, overlap=0.0).predict(volume)
    assert answer.region is None
    assert sum(ran) == answer.windows


def test_probabilities_outside_the_region_are_certain_background(bundle, volume):
    answer = predictor(bundle, [], roi=True, roi_margin_mm=0.0, save_probabilities=True).predict(volume)
    assert answer.region is not None
    assert answer.probabilities is not None
    outside = np.ones(volume.geometry.shape, bool)
    outside[tuple(slice(*ends) for ends in zip(answer.region.start, answer.region.stop, strict=True))] = False
    assert (answer.probabilities[0][outside] == 1).all()
    assert not answer.probabilities[1:, outside].any()


def test_the_ladder_searches_the_region_again(bundle, volume):
    made = predictor(bundle, [], roi=True)
    calls, start = [], made._start

    def scarce(prepared, thrift, **known):
        calls.append(thrift)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("no more")
        return start(prepared, thrift, **known)

    made._start = scarce  # type: ignore[method-assign]
    answer = made.predict(volume)
    assert calls == [Thrift.NONE, Thrift.ONE_WINDOW]
    assert answer.region is not None
    assert answer.region.found
