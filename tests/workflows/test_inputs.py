"""What the case of a file is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.workflows.inputs import image_case


@pytest.mark.parametrize(
    ("path", "case"),
    [
        ("a/liver_07.nii.gz", "liver_07"),
        ("a/liver 07.NRRD", "liver_07"),
        ("scan.seg.nrrd", "scan.seg"),
        ("series_(1)_", "series__1"),
        ("_.nii", "case"),
    ],
)
def test_a_case_is_called_as_its_file_without_the_suffix(path, case):
    assert image_case(Path(path)) == case
