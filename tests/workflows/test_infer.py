"""Many cases: restarts, damage, shards, locks, interruptions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.apps import cli, show_infer
from medseg.apps.terminal import TERMINAL
from medseg.core.batch import BatchSummary
from medseg.core.errors import BatchError, MedsegError, UsageError
from medseg.core.findings import CasePrediction
from medseg.core.geometry import Geometry
from medseg.core.settings import InferSettings
from medseg.engine.predict import Predictor
from medseg.io.documents import read_document
from medseg.io.probabilities import read_probabilities
from medseg.io.volumes import read_labels, read_volume, write_volume
from medseg.workflows.claim import claimed
from medseg.workflows.infer import infer
from medseg.workflows.infer_case import CaseWork

NUM_CASES = 5


@pytest.fixture(scope="module")
def bundle(workspace) -> Path:
    return workspace.newest_bundle()


@pytest.fixture(scope="module")
def images(cohort, tmp_path_factory) -> Path:
    """A few images of the cohort, cut small."""
    folder = tmp_path_factory.mktemp("images")
    for number, path in enumerate(sorted((cohort.parent / "images").glob("*.nii.gz"))[:NUM_CASES]):
        volume = read_volume(path)
        small = tuple(slice(0, size // 2) for size in volume.geometry.shape)
        stop = [part.stop for part in small]
        cut = type(volume)(volume.array[:, *small], volume.geometry.cropped([0, 0, 0], stop))
        write_volume(cut, folder / f"case{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def calm(bundle, images, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("calm")
    assert not infer(bundle, out, InferSettings(), folder=images).failures
    return out


@pytest.fixture
def out(calm, tmp_path) -> Path:
    """A folder in which everything is done."""
    shutil.copytree(calm, tmp_path / "out")
    return tmp_path / "out"


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def summary(folder: Path, name: str = "predictions") -> BatchSummary:
    return read_document(folder / f"{name}.json", BatchSummary)


def test_the_summary_and_each_record_name_hashes_of_inputs_and_outputs(calm):
    found = summary(calm)
    assert found.finished
    assert [state.state for state in found.cases] == ["done"] * NUM_CASES
    record = read_document(calm / "case0.json", CasePrediction)
    assert record.sha256 == {"case0.nii.gz": record.mask_sha256}
    assert found.cases[0].mask_sha256 == record.mask_sha256
    assert [seal.name for seal in record.inputs] == ["case0.nii.gz"]
    assert sorted(path.name for path in calm.iterdir() if path.name.startswith(".")) == []


def test_the_same_command_again_does_nothing(bundle, images, out, monkeypatch):
    monkeypatch.setattr(Predictor, "predict", None)
    again = infer(bundle, out, InferSettings(), folder=images)
    assert again.skipped == tuple(f"case{number}" for number in range(NUM_CASES))
    assert len(again.predictions) == NUM_CASES
    assert all(state.skipped for state in summary(out).cases)


def cut_mask(out, images):
    path = out / "case1.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap_masks(out, images):
    shutil.copy(out / "case2.nii.gz", out / "case1.nii.gz")


def lose_mask(out, images):
    (out / "case1.nii.gz").unlink()


def empty_mask(out, images):
    (out / "case1.nii.gz").write_bytes(b"")


def spoil_record(out, images):
    (out / "case1.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        pytest.param(cut_mask, "case1.nii.gz is not what was written", id="O05-cut"),
        pytest.param(swap_masks, "case1.nii.gz is not what was written", id="O05-another-case"),
        pytest.param(empty_mask, "case1.nii.gz is not what was written", id="O05-empty"),
        (lose_mask, "case1.nii.gz is missing"),
        (spoil_record, "its record cannot be read"),
    ],
)
def test_what_was_damaged_is_redone_and_nothing_else(bundle, images, calm, out, harm, reason):
    harm(out, images)
    again = infer(bundle, out, InferSettings(), folder=images)
    assert again.redone == {"case1": reason}
    assert len(again.skipped) == NUM_CASES - 1
    assert masks(out) == masks(calm)


def test_a_changed_input_is_redone(bundle, images, out, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    volume = read_volume(images / "case3.nii.gz")
    write_volume(type(volume)(volume.array[:, ::-1], volume.geometry), tmp_path / "images" / "case3.nii.gz")
    again = infer(bundle, out, InferSettings(), folder=tmp_path / "images")
    assert again.redone == {"case3": "the input case3.nii.gz has changed"}


def test_other_settings_and_another_model_redo_but_a_device_does_not(bundle, images, out, tmp_path):
    assert len(infer(bundle, out, InferSettings(device="cpu", contain=False), folder=images).skipped) == NUM_CASES
    again = infer(bundle, out, InferSettings(overlap=0.25), folder=images)
    assert set(again.redone.values()) == {"the setting overlap was 0.5, now 0.25"}
    shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["provenance"]["weights_sha256"] = "other"
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(manifest))
    again = infer(tmp_path / "bundle", out, InferSettings(overlap=0.25), folder=images)
    assert all(reason.startswith("another model") for reason in again.redone.values())


def test_everything_can_be_overwritten(bundle, images, out):
    again = infer(bundle, out, InferSettings(overwrite=True), folder=images)
    assert (again.skipped, len(again.redone)) == ((), NUM_CASES)


def test_files_of_an_earlier_format_do_not_stay_behind(bundle, images, out):
    infer(bundle, out, InferSettings(formats=("nrrd",)), volumes=[images / "case0.nii.gz"])
    assert not (out / "case0.nii.gz").exists()
    assert (out / "case0.nrrd").exists()
    assert (out / "case1.nii.gz").exists()


def test_a_case_that_fails_now_leaves_no_earlier_mask(bundle, images, out, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "case2.nii.gz").write_bytes(b"no image")
    again = infer(bundle, out, InferSettings(), folder=tmp_path / "images")
    assert [(failure.case, failure.file) for failure in again.failures] == [("case2", "case2.nii.gz")]
    assert not (out / "case2.nii.gz").exists()
    assert not (out / "case2.json").exists()
    (state,) = (state for state in summary(out).cases if state.state == "failed")
    assert (state.case, state.code) == ("case2", "E-NOT-IMAGE")


def test_a_fault_of_ours_costs_one_case(bundle, images, tmp_path, monkeypatch, caplog):
    predict = CaseWork.predict

    def faulty(self, opened):
        if opened.case.id == "case1":
            message = "a fault"
            raise ZeroDivisionError(message)
        return predict(self, opened)

    monkeypatch.setattr(CaseWork, "predict", faulty)
    found = infer(bundle, tmp_path / "out", InferSettings(), folder=images)
    assert [(failure.case, failure.code) for failure in found.failures] == [("case1", "E-INTERNAL")]
    assert len(found.predictions) == NUM_CASES - 1
    assert "ZeroDivisionError" in caplog.text


def test_a_full_disk_ends_the_batch(bundle, images, tmp_path, monkeypatch):
    def full(self, answered):
        raise MedsegError("the disk is full", code="E-DISK-FULL")

    monkeypatch.setattr(CaseWork, "write", full)
    with pytest.raises(MedsegError) as caught:
        infer(bundle, tmp_path / "out", InferSettings(), folder=images)
    assert caught.value.code == "E-DISK-FULL"
    assert [state.state for state in summary(tmp_path / "out").cases].count("pending") == NUM_CASES - 1


def test_parts_make_the_whole_and_share_a_folder(bundle, images, calm, tmp_path):
    for number in (3, 1, 2):
        infer(bundle, tmp_path / "out", InferSettings(shard=f"{number}/3"), folder=images)
    assert masks(tmp_path / "out") == masks(calm)
    ids = [[state.case for state in summary(tmp_path / "out", f"predictions-{n}-of-3").cases] for n in (1, 2, 3)]
    assert ids == [["case0", "case3"], ["case1", "case4"], ["case2"]]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_a_part_that_cannot_be_is_refused(shard):
    with pytest.raises(UsageError, match="NUMBER/COUNT"):
        InferSettings.parse({"shard": shard})


@pytest.mark.parametrize(("held", "asked"), [("1/2", "1/2"), ("1/2", None), (None, "2/3"), ("1/2", "2/3")])
def test_two_runs_into_one_folder_are_refused(bundle, images, tmp_path, held, asked):
    with (
        claimed(tmp_path / "out", InferSettings(shard=held)),
        pytest.raises(BatchError) as caught,
        claimed(tmp_path / "out", InferSettings(shard=asked)),
    ):
        pass
    assert caught.value.code == "E-LOCKED"


def test_parts_of_one_count_run_beside_each_other(tmp_path):
    with claimed(tmp_path, InferSettings(shard="1/2")), claimed(tmp_path, InferSettings(shard="2/2")):
        assert len(list(tmp_path.glob(".medseg-*.lock"))) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["Predictions", "predictions-2-of-3"])
def test_a_case_named_as_the_summary_is_refused(bundle, images, tmp_path, name):
    shutil.copy(images / "case0.nii.gz", tmp_path / f"{name}.nii.gz")
    with pytest.raises(UsageError) as caught:
        infer(bundle, tmp_path / "out", InferSettings(), volumes=[tmp_path / f"{name}.nii.gz"])
    assert caught.value.code == "E-NAME-CLASH"


def test_commands_that_prepare_no_case_do_not_wait_for_monai():
    program = (
        "import sys, medseg.workflows.train, medseg.workflows.infer, medseg.workflows.forecast_infer, "
        "medseg.apps.batch; print('monai' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


def test_o07_the_command_refuses_a_claimed_folder_before_anything_heavy_is_loaded(bundle, images, tmp_path):
    program = (
        "import sys; from medseg.apps import cli\n"
        "try: cli.main()\n"
        "finally: print([name for name in ('torch', 'monai', 'pydicom') if name in sys.modules], file=sys.stderr)"
    )
    words = ["infer", "--bundle", bundle, "--input", images, "--out", tmp_path]
    with claimed(tmp_path, InferSettings()):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 7
    assert "E-LOCKED" in done.stderr
    assert f"process {os.getpid()} on" in done.stderr
    assert done.stderr.endswith("[]\n")


INTERRUPTED = """
import signal
from medseg.apps import cli
from medseg.workflows.infer_case import CaseWork

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
seen, predict = [], CaseWork.predict

def interrupted(self, opened):
    seen.append(opened)
    if len(seen) == 3:
        signal.raise_signal(signal.{name})
    return predict(self, opened)

CaseWork.predict = interrupted
cli.main()
"""


@pytest.mark.parametrize(
    ("name", "code", "words_of_end"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "ended by SIGTERM")]
)
def test_a_signal_ends_it_in_good_order_and_it_goes_on(bundle, images, calm, tmp_path, name, code, words_of_end):
    words = ["infer", "--bundle", bundle, "--input", images, "--out", tmp_path / "out"]
    program = [sys.executable, "-c", INTERRUPTED.format(name=name), *map(str, words)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert f"error {words_of_end}" in done.stderr
    assert re.search(rf"predicting: [012] of {NUM_CASES} in", done.stderr)
    assert not summary(tmp_path / "out").finished
    assert masks(tmp_path / "out").items() <= masks(calm).items()
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []
    again = infer(bundle, tmp_path / "out", InferSettings(), folder=images)
    assert len(again.skipped) >= 2
    assert masks(tmp_path / "out") == masks(calm)


def test_only_two_images_are_in_memory_at_a_time(bundle, images, tmp_path, monkeypatch):
    import gc
    import weakref

    alive, most = weakref.WeakSet(), []
    read = CaseWork.read

    def counted(self, case):
        gc.collect()
        most.append(len(alive))
        opened = read(self, case)
        alive.add(opened)
        return opened

    monkeypatch.setattr(CaseWork, "read", counted)
    infer(bundle, tmp_path / "out", InferSettings(), folder=images)
    assert max(most) <= 1


def test_what_the_command_says_of_a_restart(bundle, images, out, monkeypatch, capsys):
    cut_mask(out, images)
    words = ["medseg", "infer", "--bundle", bundle, "--input", images, "--out", out, "--json"]
    monkeypatch.setattr(sys, "argv", list(map(str, words[:-1])))
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert "skipped 4" in said
    assert "redone 1: case1.nii.gz is not what was written" in said
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    with pytest.raises(SystemExit):
        cli.main()
    told = json.loads(capsys.readouterr().out)
    assert len(told["skipped"]) == NUM_CASES
    assert told["redone"] == {}
    assert np.isfinite(told["cases"][0]["volumes_ml"]["organ"])


def test_the_windows_that_hold_nothing_are_told(bundle, images, out, capsys):
    made = infer(bundle, out, InferSettings(), folder=images)
    blank = [case.model_copy(update={"windows": 4, "skipped_windows": 3}) for case in made.predictions[:2]]
    show_infer.inferred(TERMINAL, replace(made, predictions=tuple(blank)), as_json=False)
    assert "left out 6 of 8 windows" in capsys.readouterr().err


def test_probabilities_are_written_on_the_source_grid_and_agree_with_the_mask(bundle, images, tmp_path):
    settings = InferSettings(save_probabilities=True)
    made = infer(bundle, tmp_path, settings, volumes=[images / "case0.nii.gz"]).predictions[0]
    array, names, grid = read_probabilities(tmp_path / made.files["probabilities"])
    mask = read_labels(tmp_path / made.mask)
    assert names == ("background", "organ", "lesion")
    assert grid.agrees_with(mask.geometry, tolerance_mm=1e-3)
    ranked = np.sort(array.astype(float), axis=0)
    is_tied = ranked[-1] - ranked[-2] < 1e-3
    assert ((array.argmax(0) == mask.array) | is_tied).all()
    np.testing.assert_allclose(array.sum(0, dtype=np.float32), 1, atol=2e-3)
    in_memory = Predictor(bundle, settings).predict(images / "case0.nii.gz").probabilities
    np.testing.assert_allclose(array.astype(float), in_memory.astype(float), atol=1e-3)
    assert infer(bundle, tmp_path, settings, volumes=[images / "case0.nii.gz"]).skipped == ("case0",)


def test_q03_a_volume_unlike_the_training_cases_is_flagged(bundle, images, tmp_path):
    volume = read_volume(images / "case0.nii.gz")
    geometry = Geometry(volume.geometry.shape, volume.geometry.affine @ np.diag([3, 3, 3, 1]))
    write_volume(type(volume)(volume.array + np.int16(2000), geometry), tmp_path / "odd.nii.gz")
    named = {"name": "odd", "labels": {}, "channels": ["MR"], "cases": [{"id": "odd", "images": ["odd.nii.gz"]}]}
    (tmp_path / "odd.json").write_text(json.dumps(named))
    made = infer(bundle, tmp_path / "out", InferSettings(), folder=tmp_path / "odd.json").predictions[0]
    assert {flag.split(":")[0] for flag in made.flags} >= {"W-FINGERPRINT", "W-INTENSITY", "W-MODALITY"}
