"""A backend is timed by the run that is compared with torch's; what was found out is remembered for these weights."""

from __future__ import annotations

import pytest
import torch

from medseg.core.errors import ModelError
from medseg.engine import calibration
from medseg.engine.calibration import Known, require_as_torch, timed
from medseg.engine.segment import PartedSegment


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "medseg" / "backends"


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass where a test says so."""
    now = [0.0]
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: now[0])
    return now


def _taking(clock, *seconds):
    """A segment whose runs take so long, one after the other."""
    left = list(seconds)

    def segment(window):
        clock[0] += left.pop(0)
        return window + 1

    return segment


def test_the_members_of_an_ensemble_are_added_up(clock):
    answers, seconds = timed([_taking(clock, 3.0), _taking(clock, 4.0)], torch.zeros(1))
    assert (len(answers), seconds) == (2, pytest.approx(7.0))


def test_a_parted_segment_is_judged_by_its_features():
    [answer], _ = timed([PartedSegment(lambda window: window * 2, 1, lambda _: pytest.fail("read"))], torch.ones(1))
    assert answer.tolist() == [2]


@pytest.mark.parametrize(("dtype", "just"), [(None, 0.001), (torch.bfloat16, 0.05), (torch.float16, 0.05)])
def test_the_tolerance_is_a_share_of_the_size_of_the_answer(dtype, just):
    expected = torch.tensor([3.0, 4.0])
    require_as_torch("onnx", [expected * (1 + 0.9 * just)], [expected], dtype=dtype)
    with pytest.raises(ModelError, match="onnx answers") as caught:
        require_as_torch("onnx", [expected, expected * (1 + 1.1 * just)], [expected, expected], dtype=dtype)
    assert caught.value.code == "E-BACKEND"


def test_what_is_not_a_number_is_refused():
    with pytest.raises(ModelError, match="nan away"):
        require_as_torch("onnx", [torch.tensor([float("nan")])], [torch.ones(1)], dtype=torch.bfloat16)


def test_findings_are_kept_for_these_weights_in_this_precision(cache):
    known = Known("weights", torch.bfloat16)
    assert (known.fastest, known.answers_as_torch("openvino")) == (None, False)
    known.keep_times({"torch": 2.0, "openvino": 1.0})
    known.keep_answers_as_torch("openvino")
    again = Known("weights", torch.bfloat16)
    assert (again.fastest, again.answers_as_torch("openvino")) == ("openvino", True)
    assert again.answers_as_torch("onnx") is False
    assert len(list(cache.iterdir())) == 2
    for other in (Known("weights", None), Known("others", torch.bfloat16)):
        assert (other.fastest, other.answers_as_torch("openvino")) == (None, False)


def test_without_a_cache_nothing_is_known(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    known = Known("weights", None)
    known.keep_times({"torch": 1.0})
    assert known.fastest is None
