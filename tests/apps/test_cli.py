"""The command line as a person meets it: words in, exit codes and one-line errors out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from medseg.apps import cli
from medseg.engine.stop import StoppedAtOnce
from medseg.workflows import train


def medseg(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["medseg", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        code = medseg(*arguments, monkeypatch=monkeypatch)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize("command", ["", *typer.main.get_command(cli.app).commands])
def test_help_teaches_with_an_example(run, command):
    code, out, _ = run(*([command] if command else []), "--help")
    assert code == 0
    assert "Example" in out or not command
    assert "medseg" in out


def test_help_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['medseg', '--help']\n"
        "from medseg.apps.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'numpy', 'nibabel', 'SimpleITK', 'matplotlib', 'sklearn', 'scipy', 'pydicom'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stderr


def test_the_version_is_printed(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("medseg ")


def test_the_tour_on_the_miniature_cohort(run, cohort, tmp_path):
    """import -> check -> preprocess -> train -> infer -> evaluate, each finding the last one's results."""
    work, folder = tmp_path / "work", cohort.parent
    code, out, _ = run(
        "import", folder, "--images", "images", "--masks", "labels", "--labels", "organ=1,lesion=2",
        "--out", tmp_path / "made.json", "--json",
    )  # fmt: skip
    assert code == 0
    assert len(json.loads(out)["cases"]) == 8
    code, out, _ = run("check", "--manifest", cohort)
    assert code == 0
    assert "8 cases read" in out
    fast = ("--set", "preprocess.spacing_mm=[6, 6, 8]", "--set", "preprocess.patch_size=[16, 16, 8]")
    code, out, _ = run("preprocess", "--manifest", cohort, "--workspace", work, *fast)
    assert code == 0
    assert "spacing" in out
    code, out, _ = run("train", "--workspace", work, "--dry-run")
    assert code == 0
    assert "training cases" in out
    assert not (work / "runs").exists()
    code, out, _ = run("train", "--workspace", work, "--epochs", 1, "--json", "--quiet")
    assert code == 0
    assert json.loads(out)["finished"] is True
    code, out, _ = run("infer", "--input", cohort, "--split", "test", "--workspace", work, "--dry-run")
    assert code == 0
    assert "windows" in out
    assert not (work / "predictions").exists()
    code, out, _ = run("infer", "--input", cohort, "--split", "test", "--workspace", work, "--json")
    assert code == 0
    assert {case["case"] for case in json.loads(out)["cases"]} == {
        path.name.removesuffix(".nii.gz") for path in (work / "predictions").glob("*.nii.gz")
    }
    code, out, _ = run("evaluate", "--manifest", cohort, "--split", "test", "--workspace", work, "--no-pictures")
    assert code == 0
    assert str(work / "reports" / "index.html") in out


def test_dry_runs_of_check_and_demo_change_nothing(run, cohort, tmp_path):
    code, out, _ = run("check", "--manifest", cohort, "--dry-run")
    assert code == 0
    assert "16" in out
    code, out, _ = run("demo", "--workspace", tmp_path / "work", "--dry-run", "--json")
    assert code == 0
    assert "evaluate" in json.loads(out)
    assert not (tmp_path / "work").exists()


def test_import_dry_run_writes_nothing(run, cohort, tmp_path):
    code, out, _ = run("import", cohort.parent, "--images", "images", "--masks", "labels", "--dry-run")
    assert code == 0
    assert "not written" in out
    assert not Path("manifest.json").exists()


def test_a_failed_case_is_named_and_the_others_are_done(run, inferred, cohort, tmp_path):
    masks = sorted(inferred.out.glob("*.nii.gz"))
    (tmp_path / "masks").mkdir()
    for mask in masks[:-1]:
        shutil.copy(mask, tmp_path / "masks")
    words = ("-p", tmp_path / "masks", "-m", cohort, "-o", tmp_path / "out", "--no-pictures")
    code, _, err = run("evaluate", *words)
    assert code == 7
    assert f"[E-NO-PREDICTION] case {masks[-1].name.removesuffix('.nii.gz')}" in err
    assert f"[E-BATCH] 1 case(s) failed, {len(masks) - 1} done" in err
    assert (tmp_path / "out" / "index.html").exists()


def test_two_evaluations_are_compared(run, inferred, cohort, tmp_path):
    for name in ("one", "two"):
        code, _, _ = run(
            "evaluate", "-p", inferred.out, "-m", cohort, "--split", "test", "-o", tmp_path / name, "--no-pictures"
        )
        assert code == 0
    sides = (tmp_path / "one", tmp_path / "two")
    code, out, _ = run("compare", *sides, "--out", tmp_path / "compared", "--names", "old,new", "--dry-run")
    assert code == 0
    assert not (tmp_path / "compared").exists()
    code, out, _ = run("compare", *sides, "--out", tmp_path / "compared", "--names", "old,new")
    assert code == 0
    assert "comparison.html" in out
    assert "Nothing can be concluded" in out
    code, out, _ = run("compare", *sides, "--out", tmp_path / "compared", "--json")
    assert json.loads(out)["schema_version"] == 1
    assert run("compare", *sides, "--names", "same,same")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("infer", "--volume", "absent.nii.gz", "--bundle", "{bundle}"), 3, ("E-NOT-FOUND", "absent.nii.gz")),
        (("infer", "--volume", "{text}", "--bundle", "{bundle}"), 3, ("E-NOT-IMAGE", "case text")),
        (("infer", "--volume", "{cut}", "--bundle", "{bundle}"), 3, ("E-GZ-TRUNC", "case cut")),
        (("infer", "--volume", "{image}", "-w", "{empty}"), 5, ("E-NO-MODEL", "medseg train")),
        (("infer", "--volume", "{image}", "--bundle", "{empty}"), 5, ("E-NO-MODEL",)),
        (("infer", "--bundle", "{bundle}"), 2, ("E-NO-INPUT", "--volume")),
        (("infer", "--volume", "{image}", "--bundle", "{bundle}", "--device", "cuda:77"), 2, ("E-DEVICE",)),
        (("infer", "--volume", "{image}", "--bundle", "{bundle}", "--overlap", "2"), 2, ("overlap", "0.9")),
        (("infer", "--volum", "{image}"), 2, ("--volum",)),
        (("train", "-w", "{empty}"), 5, ("E-NO-STORE", "medseg preprocess")),
        (("train", "--set", "train.buget=3m"), 2, ("E-CONFIG", "did you mean 'budget'?")),
        (("train", "--set", "trian.budget=3m"), 2, ("E-CONFIG", "did you mean 'train'?")),
        (("train", "--budget", "soon"), 2, ("E-CONFIG", "1h30m")),
        (("train", "--config", "{config}"), 2, ("did you mean 'epochs'?", "config.yaml")),
        (("train", "--config", "{text}"), 3, ("E-YAML",)),
        (("preprocess", "--manifest", "{void}"), 3, ("E-MANIFEST-EMPTY", "void.json")),
        (("preprocess", "--manifest", "{cohort}", "--window", "kidneys"), 2, ("E-WINDOW", "soft_tissue")),
        (("evaluate", "--predictions", "absent"), 3, ("E-NOT-FOUND",)),
        (("import", "absent"), 3, ("E-NOT-FOUND",)),
        (("import", "{empty}", "--labels", "liver"), 2, ("E-OPTION", "liver=1")),
    ],
)
def test_a_mistake_is_one_line_with_a_cure_and_its_exit_code(
    run, workspace, cohort, tmp_path, monkeypatch, arguments, code, words
):
    image = min((cohort.parent / "images").glob("*.nii.gz"))
    places = {
        "bundle": workspace.newest_bundle(),
        "image": image,
        "cohort": cohort,
        "empty": tmp_path / "empty",
        "text": tmp_path / "text.nii.gz",
        "cut": tmp_path / "cut.nii.gz",
        "config": tmp_path / "config.yaml",
        "void": tmp_path / "void.json",
    }
    places["empty"].mkdir()
    places["text"].write_text("a: [unclosed, and certainly no image")
    places["cut"].write_bytes(image.read_bytes()[:4000])
    places["config"].write_text("train:\n  epoch: 3\n")
    places["void"].write_text('{"schema_version": 1, "name": "void", "cases": []}')
    monkeypatch.chdir(tmp_path)
    found, _, err = run(*(str(argument).format(**places) for argument in arguments))
    assert found == code, err
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not list((tmp_path).glob("**/*.tmp*"))


def test_an_output_folder_that_cannot_be_written_is_named_before_the_work(run, workspace, cohort, tmp_path):
    image = min((cohort.parent / "images").glob("*.nii.gz"))
    (tmp_path / "file").write_text("not a folder")
    code, _, err = run("infer", "--volume", image, "--bundle", workspace.newest_bundle(), "--out", tmp_path / "file")
    assert code == 3
    assert "E-NOT-WRITABLE" in err


def test_a_batch_with_a_failure_ends_with_seven(run, workspace, cohort, tmp_path):
    image = min((cohort.parent / "images").glob("*.nii.gz"))
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    code, _, err = run(
        "infer", "--volume", tmp_path / "bad.nii.gz", "--volume", image, "--bundle", workspace.newest_bundle(),
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 7
    assert "case bad" in err
    assert (tmp_path / "out" / image.name).is_file()


def test_an_internal_fault_asks_for_a_report_and_shows_the_traceback_only_on_demand(run, monkeypatch, cohort):
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("that was us")

    monkeypatch.setattr("medseg.workflows.check.check", broken)
    code, _, err = run("check", "--manifest", cohort)
    assert code == 1
    assert "E-INTERNAL" in err
    assert "Traceback" not in err
    code, _, err = run("check", "--manifest", cohort, "--debug")
    assert code == 1
    assert "Traceback" in err


def test_python_dash_m_is_the_same_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "medseg", "check", "--manifest", str(tmp_path / "none.json")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error [E-NOT-FOUND]")


@pytest.mark.parametrize(("number", "code", "words"), [(2, 130, "interrupted"), (15, 143, "ended by SIGTERM")])
def test_a_signal_that_compiled_code_took_for_a_fault_is_told_as_one(run, monkeypatch, cohort, number, code, words):
    def compiled(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(number)
        except BaseException as ended:
            message = "returned a result with an exception set"
            raise SystemError(message) from ended

    monkeypatch.setattr("medseg.workflows.check.check", compiled)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert run("check", "--manifest", cohort) == (code, "", f"error {words}\n")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_of_a_training_ends_with_what_is_kept(run, monkeypatch, tmp_path):
    def stop(*_: object, **__: object) -> None:
        raise StoppedAtOnce(tmp_path)

    monkeypatch.setattr(train, "train", stop)
    code, out, err = run("train", "--workspace", tmp_path)
    assert (code, out) == (130, "")
    assert err == "error stopped at once, before the first checkpoint: the same command begins anew\n"
