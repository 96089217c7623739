"""Cases on Ray: lost workers, poison, the token; and a real cluster, slowly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from medseg.apps import batch
from medseg.core.errors import InputError, MedsegError, ModelError, ResourceError
from medseg.core.findings import CasePrediction, Provenance
from medseg.core.settings import InferSettings, PreprocessSettings
from medseg.data.phantom import make_phantom
from medseg.io.handover import Refusal
from medseg.workflows.infer_case import Job
from medseg.workflows.inputs import InferCase


class Lost(Exception):  # noqa: N818 - stands for Ray's
    pass


class Raised(Exception):  # noqa: N818 - stands for Ray's
    def __init__(self, cause) -> None:
        self.cause = cause


class FakeRay:
    """Workers that answer at once, in order; an answer that is an exception is the worker's death."""

    exceptions = SimpleNamespace(RayActorError=Lost, RayTaskError=Raised)

    def wait(self, references, num_returns):
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        answer = reference.answer
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeWorker:
    def __init__(self, opened, answers, asked) -> None:
        self.open = SimpleNamespace(remote=lambda: Reference(opened))
        self.run = SimpleNamespace(remote=lambda case: asked.append(case.id) or Reference(answers(case)))


class Reference:
    def __init__(self, answer) -> None:
        self.answer = answer


@pytest.fixture
def job(tmp_path) -> Job:
    made = Provenance(medseg_version="0", created="2026-01-01T00:00:00+00:00")
    return Job(tmp_path / "bundle", tmp_path, tmp_path, InferSettings(), {}, made)


def prediction(case, job) -> CasePrediction:
    grid = {"shape": (1, 1, 1), "spacing_mm": (1, 1, 1), "axis_codes": "RAS"}
    return CasePrediction(
        case=case.id, mask=None, grid=grid, labels={}, volumes_ml={}, provenance=job.provenance_of(case)
    )


def cases(count) -> list[InferCase]:
    return [InferCase(f"c{number}", ()) for number in range(count)]


@pytest.fixture
def run(job, monkeypatch):
    """`on_ray` over workers that are not there."""

    @contextmanager
    def connected(address, num_workers):
        yield FakeRay()

    monkeypatch.setattr(batch, "connected", connected)

    def run(answers, *, count=4, opened=lambda: None):
        asked, hired = [], []

        def new(*_):
            hired.append(FakeWorker(opened(), answers, asked))
            return hired[-1]

        monkeypatch.setattr(batch, "_hiring", lambda *_, **__: new)
        found = {case.id: outcome for case, outcome in batch.on_ray(job, None, cases(count))}
        return found, asked, hired

    return run


def test_every_case_ends_once(job, run):
    found, asked, _ = run(lambda case: prediction(case, job))
    assert sorted(found) == sorted(asked) == ["c0", "c1", "c2", "c3"]


def test_a_lost_worker_is_replaced_and_its_case_tried_again(job, run):
    once = iter([Lost()])
    found, asked, _ = run(lambda case: next(once, None) or prediction(case, job))
    assert all(isinstance(outcome, CasePrediction) for outcome in found.values())
    assert sorted(asked) == ["c0", "c0", "c1", "c2", "c3"]


def test_from_the_first_loss_on_one_worker_more_stands_by(job, run):
    once = iter([Lost()])
    assert len(run(lambda case: prediction(case, job), count=9)[2]) == 2
    *_, hired = run(lambda case: next(once, None) or prediction(case, job), count=9)
    assert len(hired) == 2 + 1 + 1


def test_what_a_function_raises_ends_the_run(run):
    with pytest.raises(ZeroDivisionError):
        run(lambda _: Raised(ZeroDivisionError()))


def test_other_verbs_get_their_results_in_the_order_of_the_items_and_rows_for_the_lost(run, monkeypatch):
    asked = []
    monkeypatch.setattr(batch, "_hiring", lambda *_, **__: lambda *_: FakeWorker(None, answers, asked))

    def answers(item):
        return Lost() if item.id == "c1" else item.id.upper()

    with batch.engine_of(PreprocessSettings(engine="ray", workers=3)) as each:
        found = list(each(str, cases(5), on_death=lambda item, ending: (item.id, ending)))
    assert found == ["C0", ("c1", "3 workers were lost while they worked on it"), "C2", "C3", "C4"]
    with batch.engine_of(PreprocessSettings()) as each:
        assert each is None


def test_a_case_that_kills_its_workers_is_given_up_after_three(job, run):
    found, asked, _ = run(lambda case: Lost() if case.id == "c1" else prediction(case, job))
    assert asked.count("c1") == 3
    assert found["c1"].code == "E-WORKER-LOST"
    assert found["c1"].case == "c1"
    assert sum(isinstance(outcome, CasePrediction) for outcome in found.values()) == 3


def test_what_a_worker_committed_before_it_was_lost_counts(job, run):
    def committed_then_lost(case):
        (job.out / f"{case.id}.json").write_text(prediction(case, job).to_json())
        return Lost()

    found, asked, _ = run(committed_then_lost)
    assert sorted(asked) == ["c0", "c1", "c2", "c3"]
    assert all(isinstance(outcome, CasePrediction) for outcome in found.values())


def test_a_result_of_an_earlier_run_does_not_count_for_this_one(job, run):
    old = replace(job, provenance=job.provenance.model_copy(update={"created": "2025-01-01T00:00:00+00:00"}))
    for case in cases(4):
        (job.out / f"{case.id}.json").write_text(prediction(case, old).to_json())
    found, *_ = run(lambda _: Lost())
    assert {outcome.code for outcome in found.values()} == {"E-WORKER-LOST"}


def test_a_refused_case_keeps_its_code_and_gets_its_name(job, run):
    refusal = Refusal.of(InputError("cut", code="E-GZ-TRUNC", file="x.nii.gz"))
    found, *_ = run(lambda _: refusal)
    assert isinstance(found["c2"], InputError)
    assert (found["c2"].code, found["c2"].case) == ("E-GZ-TRUNC", "c2")


def test_a_model_that_cannot_be_opened_there_ends_the_batch(job, run):
    refusal = Refusal.of(ModelError("no model", code="E-NO-MODEL"))
    with pytest.raises(ModelError):
        run(None, opened=lambda: refusal)


def test_workers_lost_before_they_begin_are_not_a_cases_fault_but_come_to_an_end(job, run):
    starts = iter([Lost()] * 5)
    found, asked, _ = run(lambda case: prediction(case, job), opened=lambda: next(starts, None))
    assert len(found) == len(asked) == 4
    with pytest.raises(ResourceError) as caught:
        run(None, opened=Lost)
    assert caught.value.code == "E-RAY"


@pytest.mark.slow
@pytest.mark.ray
def test_a_store_and_reports_made_on_a_real_cluster_are_those_made_without(tmp_path):
    pytest.importorskip("ray")
    manifest = make_phantom(tmp_path / "cohort", seed=1, num_cases=4)
    images = sorted((tmp_path / "cohort").rglob("*.nii.gz"))
    next(path for path in images if "image" in str(path)).write_bytes(b"broken")
    found = {}
    for engine in ("local", "ray"):
        place = str(tmp_path / engine)
        words = [sys.executable, "-m", "medseg"]
        tail = ["--manifest", str(manifest), "--workspace", place, "--engine", engine]
        stored = subprocess.run([*words, "preprocess", *tail], capture_output=True, text=True)
        masks = next(path.parent for path in images if "image" not in str(path))
        scored = subprocess.run([*words, "evaluate", "-p", str(masks), *tail], capture_output=True, text=True)
        assert (stored.returncode, scored.returncode) == (7, 7), stored.stderr + scored.stderr
        store = {path.name: path.read_bytes() for path in (tmp_path / engine / "store").rglob("*") if path.is_file()}
        cohort = json.loads((tmp_path / engine / "reports" / "cohort.json").read_text())
        found[engine] = store, [(case["case"], case["metrics"]) for case in cohort["cases"]], cohort["failures"]
    assert found["ray"] == found["local"]


@pytest.mark.slow
@pytest.mark.ray
def test_on_a_real_cluster_with_workers_killed_masks_are_those_of_the_calm_run():
    pytest.importorskip("ray")
    script = Path(__file__).parents[2] / "benchmarks" / "bench_ray.py"
    done = subprocess.run(
        [sys.executable, str(script), "--cases", "40", "--every", "4"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    for part, count in (("ray_workers_killed", 40), ("local_runs_killed", 30)):
        assert found[part]["done"] == count, part
        assert found[part]["identical"], part
        assert found[part]["kills"] > 0, part
    assert found["ray_workers_killed"]["committed_twice"] == 0
    assert found["ray_workers_killed"]["leftovers"] == []
    assert found["local_runs_killed"]["redone_after_commit"] == 0


def test_the_error_without_ray_names_the_command(job, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(MedsegError) as caught:
        next(batch.on_ray(job, None, cases(1)))
    assert caught.value.code == "E-EXTRA"
    assert "medseg[ray]" in caught.value.remedy
