"""The main job on the miniature cohort, verb by verb."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from medseg.core.case import Dataset
from medseg.core.errors import BatchError, InputError, ModelError, UsageError
from medseg.core.findings import CasePrediction, CohortReport
from medseg.core.geometry import Geometry
from medseg.core.settings import EvaluateSettings, InferSettings, PreprocessSettings, TrainSettings
from medseg.core.volume import LabelMap
from medseg.data.manifest import read_manifest, write_manifest
from medseg.data.store import open_store
from medseg.io.bundle import read_bundle
from medseg.io.documents import read_document
from medseg.io.files import sha256_of
from medseg.io.volumes import read_labels, read_volume, write_labels
from medseg.workflows.check import check
from medseg.workflows.evaluate import evaluate
from medseg.workflows.infer import infer
from medseg.workflows.inputs import collect_inputs
from medseg.workflows.preprocess import preprocess
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

FAST = PreprocessSettings(spacing_mm=(6.0, 6.0, 8.0), patch_size=(16, 16, 8), target="cpu")


@pytest.fixture(scope="session")
def dataset(cohort) -> Dataset:
    return read_manifest(cohort)


def with_cases(dataset: Dataset, folder, *replaced) -> Dataset:
    """The cohort with some cases exchanged, written as a manifest of its own."""
    by_id = {case.id: case for case in replaced}
    changed = dataset.model_copy(update={"cases": tuple(by_id.get(case.id, case) for case in dataset.cases)})
    write_manifest(changed, folder / "manifest.json")
    return changed


def test_the_cohort_is_clean(workspace, cohort):
    report = check(workspace, cohort)
    assert report.num_cases == 8
    assert report.num_errors == 0


def test_the_store_holds_every_case_and_a_plan_with_reasons(workspace, dataset):
    store = open_store(workspace.store)
    assert {case.id for case in store.index.cases} == {case.id for case in dataset.cases}
    assert {"spacing", "patch size", "batch size", "mirroring"} - {d.what for d in store.plan.decisions} <= {
        "patch size"
    }
    assert all(decision.reason for decision in store.plan.decisions)
    loaded = store.load(dataset.cases[0].id)
    assert loaded.image.shape[1:] == loaded.labels.shape == loaded.entry.shape


def test_one_broken_case_is_named_and_the_others_are_stored(tmp_path, dataset):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(dataset.cases[1].images[0].read_bytes()[:5000])
    with_cases(dataset, tmp_path, dataset.cases[1].model_copy(update={"images": (broken,)}))
    place = Workspace(tmp_path / "work")
    store = preprocess(place, FAST.model_copy(update={"manifest": tmp_path / "manifest.json"}))
    assert [(failure.case, failure.code) for failure in store.index.failures] == [(dataset.cases[1].id, "E-GZ-TRUNC")]
    assert len(store.index.cases) == len(dataset.cases) - 1
    assert not (place.store / "cases" / f"{dataset.cases[1].id}.safetensors").exists()


def test_a_reference_on_another_grid_is_a_failed_case(tmp_path, dataset):
    case = dataset.cases[0]
    mask = read_labels(case.label)
    affine = np.array(mask.geometry.affine)
    affine[:3, 3] += 5
    write_labels(LabelMap(mask.array, Geometry(mask.geometry.shape, affine)), tmp_path / "moved.nii.gz")
    with_cases(dataset, tmp_path, case.model_copy(update={"label": tmp_path / "moved.nii.gz"}))
    store = preprocess(Workspace(tmp_path / "work"), FAST.model_copy(update={"manifest": tmp_path / "manifest.json"}))
    assert [failure.code for failure in store.index.failures] == ["E-GRID-MISMATCH"]


def test_a_mask_value_that_no_label_has_is_a_failed_case_and_never_background(tmp_path, workspace, dataset, inferred):
    case = dataset.cases[0]
    mask = read_labels(case.label)
    array = mask.array.copy()
    array[:2, :2, :2] = 7
    write_labels(LabelMap(array, mask.geometry), tmp_path / "strange.nii.gz")
    with_cases(dataset, tmp_path, case.model_copy(update={"label": tmp_path / "strange.nii.gz"}))
    store = preprocess(Workspace(tmp_path / "work"), FAST.model_copy(update={"manifest": tmp_path / "manifest.json"}))
    assert [(failure.case, failure.code) for failure in store.index.failures] == [(case.id, "E-LABEL-UNKNOWN")]
    assert "7 (8 voxels)" in store.index.failures[0].message
    result = evaluate(
        workspace,
        inferred.out,
        tmp_path / "out",
        EvaluateSettings(pictures=False),
        manifest=tmp_path / "manifest.json",
    )
    assert {failure.case: failure.code for failure in result.report.failures} == {case.id: "E-LABEL-UNKNOWN"}


def test_nothing_readable_is_an_error(tmp_path, dataset):
    lost = [case.model_copy(update={"images": (tmp_path / "lost.nii.gz",)}) for case in dataset.cases]
    with_cases(dataset, tmp_path, *lost)
    with pytest.raises(BatchError, match="none of the") as caught:
        preprocess(Workspace(tmp_path / "work"), FAST.model_copy(update={"manifest": tmp_path / "manifest.json"}))
    assert caught.value.code == "E-ALL-FAILED"


def test_nothing_to_learn_is_an_error(tmp_path, dataset):
    bare = tuple(case.model_copy(update={"label": None, "classes": {}}) for case in dataset.cases)
    write_manifest(dataset.model_copy(update={"labels": {}, "heads": {}, "cases": bare}), tmp_path / "manifest.json")
    with pytest.raises(InputError) as caught:
        preprocess(Workspace(tmp_path / "work"), FAST.model_copy(update={"manifest": tmp_path / "manifest.json"}))
    assert caught.value.code == "E-NOTHING-TO-LEARN"


def test_a_plan_of_another_dataset_is_refused(workspace, tmp_path, cohort):
    plan = open_store(workspace.store).plan.model_copy(update={"labels": {"organ": 1, "lesion": 3}})
    (tmp_path / "plan.json").write_text(plan.to_json())
    with pytest.raises(InputError) as caught:
        preprocess(Workspace(tmp_path / "work"), PreprocessSettings(manifest=cohort, plan=tmp_path / "plan.json"))
    assert caught.value.code == "E-PLAN-MISMATCH"


def test_an_edited_plan_is_used_as_it_is(workspace, tmp_path, cohort):
    plan = open_store(workspace.store).plan.model_copy(update={"spacing_mm": (8.0, 8.0, 8.0)})
    (tmp_path / "plan.json").write_text(plan.to_json())
    store = preprocess(Workspace(tmp_path / "work"), PreprocessSettings(manifest=cohort, plan=tmp_path / "plan.json"))
    assert store.plan == plan


def test_training_ends_in_a_bundle_that_says_what_it_is(workspace):
    bundle = read_bundle(workspace.newest_bundle())
    manifest = bundle.manifest
    assert manifest.finished
    assert manifest.labels == {"organ": 1, "lesion": 2}
    assert manifest.heads == {"lesion_type": ("benign", "malignant")}
    assert set(manifest.validation) >= {"dice", "dice/organ", "lesion_type/accuracy"}
    assert manifest.provenance.weights_sha256 == sha256_of(bundle.folder / "weights.safetensors")
    card = (bundle.folder / "README.md").read_text()
    assert "Research use only" in card
    assert "organ (1)" in card
    log = [json.loads(line) for line in (bundle.folder.parent / "log.jsonl").read_text().splitlines()]
    assert {record["kind"] for record in log} >= {"validation"}
    assert list((bundle.folder.parent / "tensorboard").glob("events*"))


def test_a_finished_training_is_not_repeated(workspace):
    again = train(workspace, TrainSettings(epochs=2, warmup_steps=2))
    assert again.was_done


def test_training_without_data_says_what_to_run(tmp_path):
    with pytest.raises(ModelError, match="medseg preprocess") as caught:
        train(Workspace(tmp_path), TrainSettings(epochs=1))
    assert caught.value.code == "E-NO-STORE"


def test_a_workspace_without_a_model_says_what_to_run(tmp_path):
    with pytest.raises(ModelError, match="medseg train") as caught:
        Workspace(tmp_path).newest_bundle()
    assert caught.value.code == "E-NO-MODEL"


def test_every_case_gets_a_mask_on_its_own_grid_and_a_json(inferred, dataset):
    assert not inferred.failures
    for case in dataset.cases:
        found = read_document(inferred.out / f"{case.id}.json", CasePrediction)
        mask = read_labels(inferred.out / f"{case.id}.nii.gz")
        assert mask.geometry.agrees_with(read_volume(case.images[0]).geometry, tolerance_mm=1e-3)
        assert found.mask_sha256 == sha256_of(inferred.out / f"{case.id}.nii.gz")
        voxels = np.count_nonzero(mask.array == 1)
        assert found.volumes_ml["organ"] == pytest.approx(voxels * mask.geometry.voxel_volume_mm3 / 1000, rel=1e-3)
        assert found.provenance.weights_sha256
    flagged = [prediction.case for prediction in inferred.predictions if any("TRAINING" in f for f in prediction.flags)]
    assert flagged == sorted(case.id for case in dataset.cases if case.split == "train")


def test_in_a_batch_a_broken_volume_fails_alone(workspace, dataset, tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"not an image at all, whatever its name says")
    result = infer(
        workspace.newest_bundle(),
        tmp_path / "out",
        InferSettings(),
        volumes=[tmp_path / "broken.nii.gz", dataset.cases[0].images[0]],
    )
    assert [failure.code for failure in result.failures] == ["E-NOT-IMAGE"]
    assert [prediction.case for prediction in result.predictions] == [dataset.cases[0].id]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{dataset.cases[0].id}.json",
        f"{dataset.cases[0].id}.nii.gz",
        "predictions.json",
    ]


def test_o03_volumes_that_would_overwrite_each_other_are_refused(dataset, tmp_path):
    twin = tmp_path / dataset.cases[0].images[0].name
    twin.write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        collect_inputs([dataset.cases[0].images[0], twin], None, num_channels=1)
    assert caught.value.code == "E-NAME-CLASH"


def test_o09_names_that_differ_only_in_case_are_refused(dataset, tmp_path):
    twins = [tmp_path / name / file for name, file in (("one", "CT.nii.gz"), ("two", "ct.nii.gz"))]
    for twin in twins:
        twin.parent.mkdir()
        twin.write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        collect_inputs(twins, None, num_channels=1)
    assert caught.value.code == "E-NAME-CLASH"


@pytest.mark.parametrize("way", ["the folder", "a link to it"])
def test_o04_an_input_is_never_overwritten(workspace, dataset, tmp_path, way):
    image = tmp_path / "in" / "scan.nii.gz"
    image.parent.mkdir()
    image.write_bytes(dataset.cases[0].images[0].read_bytes())
    (tmp_path / "link").symlink_to(image.parent)
    out = image.parent if way == "the folder" else tmp_path / "link"
    with pytest.raises(UsageError) as caught:
        infer(workspace.newest_bundle(), out, InferSettings(), volumes=[image])
    assert caught.value.code == "E-WOULD-OVERWRITE"
    assert image.read_bytes() == dataset.cases[0].images[0].read_bytes()


def test_numbered_patients_are_not_channels(tmp_path):
    for name in ("patient_0001", "patient_0002"):
        (tmp_path / f"{name}.nii.gz").touch()
    assert [case.id for case in collect_inputs([], tmp_path, num_channels=1)] == ["patient_0001", "patient_0002"]


def test_files_of_one_case_are_grouped_by_channel(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        (tmp_path / f"{name}.nii.gz").touch()
    cases = collect_inputs([], tmp_path, num_channels=2)
    assert [(case.id, [path.name for path in case.images]) for case in cases] == [
        ("a", ["a_0000.nii.gz", "a_0001.nii.gz"]),
        ("b", ["b_0000.nii.gz", "b_0001.nii.gz"]),
    ]


@pytest.fixture(scope="session")
def evaluated(workspace, cohort, inferred, tmp_path_factory):
    return evaluate(
        workspace,
        inferred.out,
        tmp_path_factory.mktemp("reports"),
        EvaluateSettings(split="test"),
        manifest=cohort,
    )


def test_every_test_case_has_a_page_and_the_cohort_a_table(evaluated, dataset):
    folder = evaluated.page.parent
    tested = [case.id for case in dataset.cases if case.split == "test"]
    assert tested
    for case in tested:
        page = (folder / "cases" / f"{case}.html").read_text()
        assert case in page
        assert "Research use only" in page
        assert (folder / "cases" / f"{case}.json").is_file()
    report = read_document(folder / "cohort.json", CohortReport)
    assert report == evaluated.report
    assert {row.label for row in report.labels} == {"organ", "lesion"}
    assert [case.mean_dice for case in report.cases] == sorted(case.mean_dice for case in report.cases)
    assert len((folder / "cohort.csv").read_text().splitlines()) == 1 + 2 * len(tested)


def test_a_report_names_the_reference_it_was_scored_against(evaluated, dataset):
    references = {case.id: case.label for case in dataset.cases}
    for case in evaluated.report.cases:
        assert case.reference_sha256 == sha256_of(references[case.case])


def test_the_references_themselves_score_perfectly(workspace, cohort, dataset, tmp_path):
    for case in dataset.cases:
        write_labels(read_labels(case.label), tmp_path / "masks" / f"{case.id}.nii.gz")
    result = evaluate(
        workspace, tmp_path / "masks", tmp_path / "out", EvaluateSettings(pictures=False), manifest=cohort
    )
    assert result.report.mean_dice.mean == 1
    assert all(row.hd_mm.mean == 0 and row.nsd.mean == 1 for row in result.report.labels)
    assert result.report.classes == ()


def test_flags_of_the_masks_are_in_the_report(workspace, dataset, tmp_path):
    case = dataset.cases[0]
    write_manifest(dataset.model_copy(update={"cases": (case,)}), tmp_path / "manifest.json")
    packed = gzip.decompress(case.label.read_bytes()) + b"left over"
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / f"{case.id}.nii.gz").write_bytes(gzip.compress(packed))
    settings, manifest = EvaluateSettings(pictures=False), tmp_path / "manifest.json"
    result = evaluate(workspace, tmp_path / "masks", tmp_path / "out", settings, manifest=manifest)
    assert result.report.cases[0].flags == ("W-TRAILING: while reading the prediction",)


def test_a_constant_answer_scores_badly(workspace, cohort, dataset, tmp_path):
    for case in dataset.cases:
        mask = read_labels(case.label)
        write_labels(LabelMap(np.ones_like(mask.array), mask.geometry), tmp_path / "masks" / f"{case.id}.nii.gz")
    result = evaluate(
        workspace, tmp_path / "masks", tmp_path / "out", EvaluateSettings(pictures=False), manifest=cohort
    )
    organ, lesion = result.report.labels
    assert organ.dice.mean < 0.3
    assert lesion.dice.mean == 0
    assert lesion.num_missed == len(dataset.cases)


def test_what_is_missing_or_too_much_is_listed(workspace, cohort, dataset, tmp_path):
    first, second = dataset.cases[:2]
    write_labels(read_labels(first.label), tmp_path / "masks" / f"{first.id}.nii.gz")
    write_labels(read_labels(second.label), tmp_path / "masks" / "stranger.nii.gz")
    mask = read_labels(second.label)
    cut = LabelMap(mask.array[:-1], mask.geometry.cropped((0, 0, 0), (mask.array.shape[0] - 1, *mask.array.shape[1:])))
    write_labels(cut, tmp_path / "masks" / f"{second.id}.nii.gz")
    result = evaluate(
        workspace, tmp_path / "masks", tmp_path / "out", EvaluateSettings(pictures=False), manifest=cohort
    )
    codes = {failure.case: failure.code for failure in result.report.failures}
    assert codes[second.id] == "E-GRID-MISMATCH"
    assert codes["stranger"] == "E-NO-REFERENCE"
    assert [code for code in codes.values() if code == "E-NO-PREDICTION"] == ["E-NO-PREDICTION"] * (
        len(dataset.cases) - 2
    )
    assert result.report.num_cases == len(dataset.cases) + 1


def test_an_empty_folder_cannot_be_evaluated(workspace, cohort, tmp_path):
    with pytest.raises(InputError, match="medseg infer") as caught:
        evaluate(workspace, tmp_path, tmp_path / "out", EvaluateSettings(), manifest=cohort)
    assert caught.value.code == "E-NOTHING-TO-EVALUATE"
    assert list((tmp_path / "out").iterdir()) == []


def test_unlabelled_structures_are_not_scored(workspace, dataset, inferred, tmp_path):
    partly = dataset.cases[0].model_copy(update={"labelled": ("organ",)})
    with_cases(dataset, tmp_path, partly)
    result = evaluate(
        workspace,
        inferred.out,
        tmp_path / "out",
        EvaluateSettings(pictures=False),
        manifest=tmp_path / "manifest.json",
    )
    report = next(case for case in result.report.cases if case.case == partly.id)
    assert [row.label for row in report.metrics] == ["organ"]
    assert report.unlabelled == ("lesion",)
