from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medseg.core.case import Case, Dataset
from medseg.core.errors import InputError, ModelError, UsageError
from medseg.core.geometry import Geometry
from medseg.core.plan import IGNORE_INDEX, MISSING_CLASS, Plan
from medseg.data.store import close_store, open_store, store_case
from medseg.ops.prepare import Prepared

DATASET = Dataset(
    name="d", labels={"tumour": 9, "liver": 4}, heads={"grade": ("low", "high"), "side": ("left", "right")}
)
PLAN = Plan.parse(
    {
        "dataset": "d",
        "channels": ["CT"],
        "labels": DATASET.labels,
        "spacing_mm": [1, 1, 1],
        "crop": "none",
        "normalisation": [{"scheme": "per_image"}],
        "coarse_axis": None,
        "patch_size": [8, 8, 8],
        "batch_size": 2,
        "mirror_axes": [0],
        "network": {
            "features": [4, 8],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "kernels": [[3, 3, 3]] * 2,
            "blocks": [1, 1],
        },
    }
)


def _prepared(shape=(9, 8, 7), *, labelled=True, labels=None):
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    if labels is None and labelled:
        labels = torch.zeros(shape, dtype=torch.uint8)
        labels[2:4, 3:5, 1], labels[5, 5, 5], labels[0] = 1, 2, IGNORE_INDEX
    geometry = Geometry.from_parts(shape)
    return Prepared(image, labels, geometry, geometry)


@pytest.fixture
def folder(tmp_path):
    cases = (
        Case(id="a", patient="p", images=("a.nii",), classes={"side": "right"}),
        Case(id="b", images=("b.nii",), labelled=("liver",)),
    )
    stored = (
        store_case(tmp_path, cases[0], _prepared(), DATASET),
        store_case(tmp_path, cases[1], _prepared(labelled=False), DATASET),
    )
    close_store(tmp_path, PLAN, DATASET, cases=stored, failures=())
    return tmp_path


def test_round_trip(folder):
    store = open_store(folder)
    assert (store.plan, store.dataset) == (PLAN, DATASET)
    assert [case.id for case in store.index.cases] == ["a", "b"]
    case, prepared = store.load("a"), _prepared()
    assert torch.equal(case.image, prepared.image.half())
    assert torch.equal(case.labels, prepared.labels)
    assert (case.entry.patient, case.entry.shape, case.entry.known) == ("p", (9, 8, 7), (True, True, True))
    assert case.entry.classes == {"grade": MISSING_CLASS, "side": 1}
    expected = sorted([[1, *voxel] for voxel in torch.argwhere(prepared.labels == 1).tolist()] + [[2, 5, 5, 5]])
    assert sorted(case.foreground.tolist()) == expected


def test_a_case_without_reference_knows_nothing(folder):
    case = open_store(folder).load("b")
    assert (case.labels.numel(), tuple(case.foreground.shape)) == (0, (0, 4))
    assert case.entry.known == (False, False, False)
    assert case.entry.patient == "b"


def test_only_the_annotated_labels_are_known(tmp_path):
    case = Case(id="c", images=("c.nii",), labelled=("tumour",))
    assert DATASET.label_names == ("liver", "tumour")
    assert store_case(tmp_path, case, _prepared(), DATASET).known == (True, False, True)


@pytest.mark.parametrize("count", [4_999, 5_001, 9_999, 19_000])
def test_foreground_points_are_bounded_and_evenly_spread(tmp_path, count):
    labels = torch.zeros(40, 25, 20, dtype=torch.uint8)
    labels.view(-1)[:count] = 2
    labels[39, 24, 19] = 1
    store = close_store(
        tmp_path,
        PLAN,
        DATASET,
        cases=(store_case(tmp_path, Case(id="a", images=("a.nii",)), _prepared(labels=labels), DATASET),),
        failures=(),
    )
    points = store.load("a").foreground
    assert points[points[:, 0] == 1].tolist() == [[1, 39, 24, 19]]
    drawn = points[points[:, 0] == 2][:, 1:].long()
    assert len(drawn) == min(count, 5_000)
    assert len(drawn.unique(dim=0)) == len(drawn)
    assert (labels[drawn[:, 0], drawn[:, 1], drawn[:, 2]] == 2).all()
    flat = np.sort(drawn[:, 0] * 500 + drawn[:, 1] * 20 + drawn[:, 2])
    assert (flat[0], flat[-1]) == (0, count - 1)
    assert np.diff(flat).max() <= -(-count // len(drawn))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_refused(folder, damage):
    path = folder / "cases" / "a.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-10])
    with pytest.raises(InputError) as caught:
        open_store(folder).load("a")
    assert (caught.value.code, caught.value.case, caught.value.file) == ("E-STORE-DAMAGED", "a", path)
    assert open_store(folder).load("b").entry.id == "b"


def _edit(folder, **fields):
    path = folder / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        {"spacing_mm": [1, 1, 2]},
        {"crop": "nonzero"},
        {"normalisation": [{"scheme": "fixed"}]},
        {"coarse_axis": 2},
        {"labels": {"tumour": 8, "liver": 4}},
    ],
)
def test_a_plan_edited_where_the_arrays_depend_on_it_is_stale(folder, fields):
    _edit(folder, **fields)
    with pytest.raises(ModelError) as caught:
        open_store(folder)
    assert caught.value.code == "E-STORE-STALE"
    assert "medseg preprocess --plan" in caught.value.remedy


def test_a_plan_edited_elsewhere_is_taken(folder):
    _edit(folder, batch_size=7, patch_size=[4, 4, 4], mirror_axes=[])
    plan = open_store(folder).plan
    assert (plan.batch_size, plan.patch_size, plan.mirror_axes) == (7, (4, 4, 4), ())


def test_a_plan_that_cannot_be_is_refused(folder):
    _edit(folder, batch_size=0)
    with pytest.raises(UsageError, match="batch_size") as caught:
        open_store(folder)
    assert "medseg preprocess" in caught.value.remedy


def test_no_store_and_an_unfinished_one(folder, tmp_path_factory):
    (folder / "index.json").unlink()
    for place in (folder, tmp_path_factory.mktemp("empty")):
        with pytest.raises(ModelError) as caught:
            open_store(place)
        assert (caught.value.code, caught.value.exit_code) == ("E-NO-STORE", 5)


def test_a_store_of_a_later_version_is_refused(folder):
    path = folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))
    with pytest.raises(UsageError, match="schema_version"):
        open_store(folder)
