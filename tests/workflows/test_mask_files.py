from __future__ import annotations

import pytest

from medseg.core.errors import InputError
from medseg.workflows.mask_files import mask_case, masks_in


def test_objects_count_where_no_voxels_are_and_reports_never(tmp_path):
    for name in (
        *("a.nii.gz", "a.seg.dcm", "a.rtstruct.dcm", "a.sr.dcm", "a.json"),
        *("b.rtstruct.dcm", "b.seg.dcm", "c.RTSTRUCT.dcm", "d.sr.dcm", "e.dcm", ".f.nii", "g.nrrd", "g.nii"),
    ):
        (tmp_path / name).touch()
    found = {name: [path.name for path in paths] for name, paths in masks_in(tmp_path).items()}
    assert found == {
        "a": ["a.nii.gz"],
        "b": ["b.seg.dcm"],
        "c": ["c.RTSTRUCT.dcm"],
        "e": ["e.dcm"],
        "g": ["g.nii", "g.nrrd"],
    }


def test_a_case_has_one_name_in_every_format(tmp_path):
    names = ("x.nii.gz", "x.seg.nrrd", "x.seg.dcm", "x.rtstruct.dcm", "x.mha")
    assert {mask_case(tmp_path / name) for name in names} == {"x"}


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a.nii").touch()
    with pytest.raises(InputError) as caught:
        masks_in(tmp_path / "a.nii")
    assert caught.value.code == "E-NOT-A-FOLDER"
