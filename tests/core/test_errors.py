from __future__ import annotations

from pathlib import Path

import pytest

from medseg.core.errors import (
    BatchError,
    GeometryError,
    InputError,
    MedsegError,
    ModelError,
    ResourceError,
    UsageError,
    case_context,
)


def test_exit_codes_are_the_documented_ones():
    family = (MedsegError, UsageError, InputError, GeometryError, ModelError, ResourceError, BatchError)
    assert [kind.exit_code for kind in family] == [1, 2, 3, 4, 5, 6, 7]
    assert issubclass(GeometryError, InputError)


def test_text_names_code_case_file_message_and_remedy():
    error = InputError("is cut", code="E-GZ-CRC", file="scan.nii.gz", case="a1", remedy="Copy it again.")
    assert str(error) == "[E-GZ-CRC] case a1, scan.nii.gz: is cut. Copy it again."
    assert str(MedsegError("is odd", code="E-X")) == "[E-X] is odd"


def test_control_characters_from_a_file_name_cannot_reach_the_terminal():
    text = str(InputError("bad\nline", code="E-X", file="a\x1b[31m.nii"))
    assert "\x1b" not in text
    assert "\\x1b[31m" in text
    assert "\\n" in text


def test_record_holds_the_same_facts():
    error = InputError("is cut", code="E-GZ-CRC", file=Path("scan.nii.gz"))
    assert error.record() == {
        "code": "E-GZ-CRC",
        "case": None,
        "file": "scan.nii.gz",
        "message": "is cut",
        "remedy": None,
    }


def test_case_context_names_the_case_unless_the_raiser_did():
    with pytest.raises(MedsegError) as caught, case_context("outer"):
        raise MedsegError("x", code="E-X")
    assert caught.value.case == "outer"
    with pytest.raises(MedsegError) as caught, case_context("outer"):
        raise MedsegError("x", code="E-X", case="inner")
    assert caught.value.case == "inner"


def test_case_context_adds_a_note_to_any_other_error():
    with pytest.raises(ZeroDivisionError) as caught, case_context("a1"):
        _ = 1 / 0
    assert caught.value.__notes__ == ["while working on case a1"]
