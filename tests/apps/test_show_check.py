"""What `medseg check` prints."""

import pytest

from medseg.apps.show_check import checked
from medseg.apps.terminal import Terminal
from medseg.core.doctor import CheckReport, Finding


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ((), "12 cases read, 12 without a remark of their own\n"),
        (("case_1",), "11 without a remark of their own\n"),
        (("case_1", ""), "11 without a remark of their own, 1 remark(s) on many or all of them\n"),
    ],
)
def test_the_last_line_counts_what_concerns_all_apart(capsys, cases, expected):
    findings = tuple(Finding(case=case, severity="warning", code="W-SIZE", message="large") for case in cases)
    note = Finding(case="", severity="note", code="W-NO-MASK", message="none")
    report = CheckReport(dataset="d", num_cases=12, num_ok=12 - ("case_1" in cases), findings=(*findings, note))
    checked(Terminal(), report, as_json=False)
    assert capsys.readouterr().out.endswith(expected)
