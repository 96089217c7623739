"""Windows that hold nothing: decided by the training cases, the same masks, less work."""

from __future__ import annotations

import weakref
from contextlib import nullcontext

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.core.errors import ModelError
from medseg.core.settings import PreprocessSettings
from medseg.data.phantom import make_phantom
from medseg.data.store import open_store
from medseg.engine.case_run import CaseRun
from medseg.engine.members import combined
from medseg.engine.watch import Watch
from medseg.ops.sliding import WindowGrid
from medseg.workflows.preprocess import preprocess
from medseg.workflows.workspace import Workspace

LOW, MEAN, STD = -91.0, 95.0, 33.0


@pytest.fixture
def plan(workspace):
    plan = open_store(workspace.store).plan
    rule = plan.normalisation[0].model_copy(update={"lower": LOW, "mean": MEAN, "std": STD})
    return plan.model_copy(update={"normalisation": (rule,), "patch_size": (8, 8, 8), "classification": None})


@pytest.fixture
def image():
    """A ball in air, in network units."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(size) for size in (40, 24, 24)), indexing="ij"))
    distance = (grid - torch.tensor([10.0, 12, 12]).reshape(3, 1, 1, 1)).square().sum(0).sqrt()
    return torch.where(distance < 7, 2.0, (LOW - MEAN) / STD)[None]


@pytest.mark.parametrize("regions", [False, True])
def test_the_masks_are_the_same_and_windows_were_left_out(plan, image, regions):
    if regions:
        plan = plan.model_copy(update={"regions": {name: (value,) for name, value in plan.labels.items()}})
    sign = torch.ones(plan.num_outputs).reshape(1, -1, 1, 1, 1)
    sign[:, :1] = 1 if regions else -1
    called = []

    def segment(windows):
        called.append(len(windows))
        return windows * sign

    masks, grid = [], WindowGrid.over(image.shape[1:], plan.patch_size, 0.5)
    for skip in (False, True):
        called.clear()
        run = CaseRun(
            [],
            image,
            plan.model_copy(update={"skip_constant_windows": skip}),
            segments=[segment],
            grid=grid,
        )
        logits = torch.cat(list(run.slabs()), dim=1)
        masks.append(logits > 0 if regions else logits.argmax(0))
        assert sum(called) == run.windows - run.skipped
    assert torch.equal(*masks)
    assert masks[0].any()
    assert 0.5 * run.windows < run.skipped < run.windows


def test_slabs_are_let_go_before_the_next_are_made(plan, image):
    taken = []

    def segment(windows):
        assert all(slab() is None for slab in taken)
        return windows.expand(-1, plan.num_outputs, -1, -1, -1)

    grid = WindowGrid.over(image.shape[1:], plan.patch_size, 0.5)
    run = CaseRun([], image, plan, segments=[segment, segment], grid=grid)
    for slab in Watch(0.0).timed(run.slabs(), "network"):
        taken.append(weakref.ref(slab.untyped_storage()))
        del slab
    assert len(taken) > 3


@pytest.mark.parametrize(
    ("wrong", "is_told"), [([np.nan], True), ([np.inf], True), ([np.inf, -np.inf], True), ([3e38, 3e38], False)]
)
def test_only_what_is_not_finite_is_refused(plan, image, wrong, is_told):
    def segment(windows):
        answer = torch.zeros(len(windows), plan.num_outputs, *plan.patch_size)
        answer[:, 0, 4, 4, : len(wrong)] = torch.tensor(wrong)
        return answer

    run = CaseRun([], image, plan, segments=[segment], grid=WindowGrid.over(image.shape[1:], plan.patch_size, 0.0))
    with pytest.raises(ModelError) if is_told else nullcontext() as caught:
        assert torch.cat(list(run.slabs()), dim=1).max() > 1e38
    assert not is_told or caught.value.code == "E-NUMERIC"


def test_a_case_of_nothing_needs_no_network(plan, image):
    def segment(windows):
        raise AssertionError

    grid = WindowGrid.over(image.shape[1:], plan.patch_size, 0.5)
    air = torch.full_like(image, float(image.min()))
    run = CaseRun(
        [],
        air,
        plan.model_copy(update={"skip_constant_windows": True}),
        segments=[segment],
        grid=grid,
    )
    logits = torch.cat(list(run.slabs()), dim=1)
    assert (logits[0] > logits[1:].amax(0) + 5).all()
    assert run.skipped == run.windows > 0


def test_the_training_cases_decide(tmp_path):
    """The phantom allows it; one labelled voxel far out in the air forbids it."""
    manifest = make_phantom(tmp_path / "cohort", seed=3, num_cases=2)
    settings = PreprocessSettings(manifest=manifest, spacing_mm=(5.0, 5.0, 6.0), patch_size=(32, 32, 16), target="cpu")
    store = preprocess(Workspace(tmp_path / "first"), settings)
    assert store.plan.skip_constant_windows
    assert store.plan.decisions[-1].what == "windows of nothing"
    [case, *_] = [case for case in store.dataset.cases if case.split != "test"]
    mask, scan = nib.load(case.label), nib.load(case.images[0])
    array, voxels = np.asarray(mask.dataobj).copy(), np.asarray(scan.dataobj).copy()
    array[:12, :12, :12], voxels[:20, :20, :20] = 1, -1000
    nib.save(nib.Nifti1Image(array, None, mask.header), case.label)
    nib.save(nib.Nifti1Image(voxels, None, scan.header), case.images[0])
    store = preprocess(Workspace(tmp_path / "second"), settings)
    assert not store.plan.skip_constant_windows
    assert case.id in store.plan.decisions[-1].reason


def test_members_answer_with_the_mean_of_their_probabilities_or_logits():
    parts = [torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(n)) * 5 for n in range(3)]
    mean = torch.stack([part.softmax(0) for part in parts]).mean(0)
    torch.testing.assert_close(combined(parts, how="probabilities", regions=False).softmax(0), mean)
    torch.testing.assert_close(combined(parts, how="logits", regions=False), sum(parts) / 3)
    shares = torch.stack([part.sigmoid() for part in parts]).mean(0)
    torch.testing.assert_close(combined(parts, how="probabilities", regions=True).sigmoid(), shares)
    batches = [part.movedim(0, 1) for part in parts]
    turned = combined(batches, how="probabilities", regions=False, dim=1)
    torch.testing.assert_close(turned.softmax(1), mean.movedim(0, 1))


def test_a_doubtful_majority_is_outvoted_by_one_sure_member_in_logits_only():
    parts = [torch.tensor([[4.0], [-4.0]]), torch.tensor([[-1.0], [1.0]]), torch.tensor([[-1.0], [1.0]])]
    assert combined(parts, how="logits", regions=False).argmax() == 0
    assert combined(parts, how="probabilities", regions=False).argmax() == 1
