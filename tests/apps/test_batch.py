"""Cases on Ray: lost workers, poison, the token; and a real cluster, slowly."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from medseg.apps import batch
from medseg.core.errors import InputError, MedsegError, ModelError, ResourceError, UsageError
from medseg.core.findings import CasePrediction, Provenance
from medseg.core.settings import InferSettings
from medseg.io.handover import Refusal
from medseg.workflows.infer_case import Job
from medseg.workflows.inputs import InferCase


class Lost(Exception):  # noqa: N818 - stands for Ray's
    pass


class FakeRay:
    """Workers that answer at once, in order; an answer that is an exception is the worker's death."""

    exceptions = SimpleNamespace(RayActorError=Lost)

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


def run(job, answers, *, count=4, opened=lambda: None, workers=2):
    asked: list[str] = []
    crew = batch._Crew(FakeRay(), lambda: FakeWorker(opened(), answers, asked), job, cases(count))
    return {case.id: outcome for case, outcome in crew.work(workers)}, asked


def test_every_case_ends_once(job):
    found, asked = run(job, lambda case: prediction(case, job))
    assert sorted(found) == sorted(asked) == ["c0", "c1", "c2", "c3"]


def test_a_lost_worker_is_replaced_and_its_case_tried_again(job):
    once = iter([Lost()])
    found, asked = run(job, lambda case: next(once, None) or prediction(case, job))
    assert all(isinstance(outcome, CasePrediction) for outcome in found.values())
    assert sorted(asked) == ["c0", "c0", "c1", "c2", "c3"]


def test_a_case_that_kills_its_workers_is_given_up_after_three(job):
    found, asked = run(job, lambda case: Lost() if case.id == "c1" else prediction(case, job))
    assert asked.count("c1") == 3
    assert found["c1"].code == "E-WORKER-LOST"
    assert found["c1"].case == "c1"
    assert sum(isinstance(outcome, CasePrediction) for outcome in found.values()) == 3


def test_what_a_worker_committed_before_it_was_lost_counts(job):
    def committed_then_lost(case):
        (job.out / f"{case.id}.json").write_text(prediction(case, job).to_json())
        return Lost()

    found, asked = run(job, committed_then_lost)
    assert sorted(asked) == ["c0", "c1", "c2", "c3"]
    assert all(isinstance(outcome, CasePrediction) for outcome in found.values())


def test_a_result_of_an_earlier_run_does_not_count_for_this_one(job):
    old = replace(job, provenance=job.provenance.model_copy(update={"created": "2025-01-01T00:00:00+00:00"}))
    for case in cases(4):
        (job.out / f"{case.id}.json").write_text(prediction(case, old).to_json())
    found, _ = run(job, lambda _: Lost())
    assert {outcome.code for outcome in found.values()} == {"E-WORKER-LOST"}


def test_a_refused_case_keeps_its_code_and_gets_its_name(job):
    refusal = Refusal.of(InputError("cut", code="E-GZ-TRUNC", file="x.nii.gz"))
    found, _ = run(job, lambda _: refusal)
    assert isinstance(found["c2"], InputError)
    assert (found["c2"].code, found["c2"].case) == ("E-GZ-TRUNC", "c2")


def test_a_model_that_cannot_be_opened_there_ends_the_batch(job):
    refusal = Refusal.of(ModelError("no model", code="E-NO-MODEL"))
    with pytest.raises(ModelError):
        run(job, None, opened=lambda: refusal)


def test_workers_lost_before_they_begin_are_not_a_cases_fault_but_come_to_an_end(job):
    starts = iter([Lost()] * 5)
    found, asked = run(job, lambda case: prediction(case, job), opened=lambda: next(starts, None))
    assert len(found) == len(asked) == 4
    with pytest.raises(ResourceError) as caught:
        run(job, None, opened=Lost)
    assert caught.value.code == "E-RAY"


def test_a_cluster_without_a_token_is_refused(job, monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        batch._secured("10.0.0.1:6379", tmp_path)
    assert caught.value.code == "E-RAY-TOKEN"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert batch._secured("10.0.0.1:6379", tmp_path)["RAY_AUTH_MODE"] == "token"


def test_workers_of_this_machine_get_a_token_that_nobody_else_can_read(tmp_path):
    words = batch._secured(None, tmp_path)
    token = Path(words["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    assert words["RAY_AUTH_MODE"] == "token"
    assert words["RAY_USAGE_STATS_ENABLED"] == "0"
    assert batch._secured(None, tmp_path)["RAY_AUTH_TOKEN_PATH"] == str(token)


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
