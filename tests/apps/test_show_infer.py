"""What `medseg infer` shows: one row per case, and what its flags mean once."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from medseg.apps.show import fail_for
from medseg.apps.show_infer import inferred
from medseg.apps.terminal import Terminal
from medseg.core.errors import BatchError, InputError
from medseg.core.findings import CaseFailure, CasePrediction, GridSummary
from medseg.workflows.infer import Inferred
from medseg.workflows.provenance import make_provenance

STRANGE = "W-FINGERPRINT: voxels of 1x1x9 mm along R, A, S; in training it was 1x1x3 to 1x1x3 mm"
GRID = GridSummary(shape=(4, 4, 4), spacing_mm=(1, 1, 1), axis_codes="RAS")


def _shown(capsys, predictions, *, width: int) -> str:
    terminal = Terminal()
    terminal.out = Console(highlight=False, soft_wrap=True, width=width)
    inferred(terminal, Inferred(Path("model"), Path("out"), tuple(predictions), ()), as_json=False)
    return capsys.readouterr().out


def _case(name: str, *flags: str) -> CasePrediction:
    return CasePrediction(
        case=name, mask=None, grid=GRID, labels={}, volumes_ml={"organ": 12.5}, flags=flags,
        provenance=make_provenance("d"),
    )  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
def test_a_flag_of_many_cases_is_told_in_full_once(capsys, width):
    own = "W-INTENSITY: CT has a median of 900, in training it was 20 to 60"
    cases = [_case(f"case_{number}", STRANGE, *([own] if number == 3 else [])) for number in range(1, 6)]
    out = _shown(capsys, [*cases, _case("case_6")], width=width)
    lines = out.splitlines()
    for number in range(1, 6):
        (row,) = [line for line in lines if line.startswith(f"case_{number} ")]
        assert "W-FINGERPRINT" in row
        assert ("W-INTENSITY" in row) is (number == 3)
    assert out.count(STRANGE) == 1
    assert f"{STRANGE} (case_1, case_2, case_3 and 2 more)" in lines
    assert f"{own} (case_3)" in lines


def test_one_case_needs_no_name_and_a_flag_without_words_is_its_code(capsys):
    lines = _shown(capsys, [_case("only", STRANGE, "W-ORIENTATION-ASSUMED")], width=120).splitlines()
    assert STRANGE in lines
    assert "W-ORIENTATION-ASSUMED" in lines
    assert lines[-1] == "masks and findings in out, made by the model model"


def test_flags_of_a_large_batch_stay_on_a_screen(capsys):
    cases = [_case(f"case_{number}", f"W-FINGERPRINT: voxels of {number} mm") for number in range(50)]
    lines = _shown(capsys, cases, width=120).splitlines()
    assert sum(line.startswith("W-FINGERPRINT: voxels") for line in lines) == 20
    assert "... and 30 more flags, in the JSON of each case" in lines


def test_a_case_that_failed_is_told_with_its_file_but_no_folder(capsys):
    error = InputError("ends early", code="E-GZ-TRUNC", file=Path("private") / "a.nii.gz", remedy="Copy it again.")
    with pytest.raises(BatchError, match=r"1 case\(s\) failed, 3 done"):
        fail_for(Terminal(), [CaseFailure.of("a", error)], 3)
    assert "[E-GZ-TRUNC] case a, a.nii.gz: ends early. Copy it again." in capsys.readouterr().err
