"""`medseg stage` from measurements and from masks."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.errors import InputError, UsageError
from medseg.core.geometry import Geometry
from medseg.core.staging import CaseStaging
from medseg.core.volume import LabelMap
from medseg.io.documents import read_document
from medseg.io.volumes import write_labels
from medseg.workflows.mask_inputs import MaskRequest
from medseg.workflows.measure import measure
from medseg.workflows.stage import StageRequest, read_tables, stage

LABELS = {"liver": 1, "tumour": 2}


@pytest.fixture
def masks(tmp_path):
    """A lesion of 24 x 7 mm (long axis 25 mm) in the first case, none in the second."""
    geometry = Geometry.from_parts((30, 20, 10), (2, 1, 3))
    for name, is_ill in (("p1", True), ("p2", False)):
        array = np.zeros(geometry.shape, np.uint8)
        array[2:28, 2:18, 2:8] = 1
        array[6:18, 5:12, 4:6] = 2 if is_ill else 1
        write_labels(LabelMap(array, geometry), tmp_path / "masks" / f"{name}.nii.gz")
    return tmp_path / "masks"


def request(*names, **given):
    return StageRequest(read_tables(names), given)


def test_from_masks(masks, tmp_path):
    made = stage(masks, tmp_path / "out", request("lung_tnm9"), MaskRequest(labels=LABELS))
    first, second = made.cases
    assert read_document(tmp_path / "out" / "p1.staging.json", CaseStaging) == first
    assert first.results[0].category == "T1c"
    assert first.results[0].inputs[0].value == pytest.approx(25)
    assert second.results[0].category is None
    page = (tmp_path / "out" / "p1.measurements.html").read_text()
    assert "Categories by size" in page
    assert "size component only" in page
    assert "lung_tnm9.size" in page


def test_from_measurements(masks, tmp_path):
    measure(masks, tmp_path / "out", MaskRequest(labels=LABELS, pictures=False))
    made = stage(tmp_path / "out", tmp_path / "staged", request("kidney_tnm8", "lung_tnm9"), MaskRequest())
    assert [one.category for one in made.cases[0].results] == ["T1a", "T1c"]
    alone = stage(tmp_path / "out" / "p1.measurements.json", tmp_path / "one", request("kidney_tnm8"), MaskRequest())
    assert alone.cases[0].results == made.cases[0].results[:1]
    assert "Categories by size" in (tmp_path / "one" / "p1.staging.html").read_text()


def test_answers_go_to_the_tables_that_ask(masks, tmp_path):
    chosen = request("lung_tnm9", "lung_rads_2022", nodule_type="solid", timing="baseline")
    made = stage(masks / "p1.nii.gz", tmp_path / "out", chosen, MaskRequest(labels=LABELS, pictures=False))
    assert [one.category for one in made.cases[0].results] == ["T1c", "4B"]
    with pytest.raises(UsageError, match=r"E-STAGE-INPUT.*'colour'"):
        request("lung_tnm9", colour="red")


def test_only_some_lesions(masks, tmp_path):
    chosen = StageRequest(read_tables(["lung_tnm9"]), {}, ("nodule",))
    measure(masks / "p1.nii.gz", tmp_path / "out", MaskRequest(labels=LABELS, pictures=False))
    made = stage(tmp_path / "out", tmp_path / "out", chosen, MaskRequest())
    assert made.cases[0].results[0].category is None


def test_a_batch_goes_on(masks, tmp_path):
    measure(masks, tmp_path / "out", MaskRequest(labels=LABELS, pictures=False))
    (tmp_path / "out" / "p0.measurements.json").write_text("{")
    made = stage(tmp_path / "out", tmp_path / "out", request("lung_tnm9"), MaskRequest())
    assert [failure.code for failure in made.failures] == ["E-JSON"]
    assert len(made.cases) == 2
    with pytest.raises(InputError, match="E-JSON"):
        stage(tmp_path / "out" / "p0.measurements.json", tmp_path / "out", request("lung_tnm9"), MaskRequest())


def test_a_table_of_ones_own(tmp_path, masks):
    text = """
id: own
title: Own
component: size component only
edition: "1"
source: me
scope: mine
licence: free
subject: largest
rules:
  - {id: size, measure: feret_mm, bins: [{up_to: 20, category: small}, {category: large}]}
"""
    (tmp_path / "own.yaml").write_text(text)
    chosen = request(str(tmp_path / "own.yaml"))
    made = stage(masks / "p1.nii.gz", tmp_path / "out", chosen, MaskRequest(labels=LABELS, pictures=False))
    assert made.cases[0].results[0].category == "large"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("!!python/object/apply:os.system ['true']", "E-YAML"),
        ("a: &a [1]\nb: *a", "E-YAML"),
        ("- 1", "E-YAML"),
        ("a: [", "E-YAML"),
        ("id: x", "E-CONFIG"),
        ("#" * 70_000, "E-YAML"),
    ],
)
def test_a_damaged_or_hostile_file(tmp_path, text, code):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises((InputError, UsageError), match=code):
        read_tables([str(tmp_path / "own.yaml")])


def test_tables_that_do_not_exist():
    with pytest.raises(UsageError, match=r"E-STAGE-TABLE.*did you mean 'lung_tnm9'"):
        read_tables(["lung_tnm"])
    with pytest.raises(UsageError, match="E-STAGE-TABLE"):
        read_tables([])
    with pytest.raises(InputError, match="E-NOT-FOUND"):
        read_tables(["nowhere.yaml"])
