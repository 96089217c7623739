"""An image and what belongs to it: another grid is refused, however little it differs, with both grids named."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.case import Case, Dataset
from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume, require_same_grid
from medseg.data.check import check_dataset
from medseg.io.volumes import read_labels, read_volume, read_volumes, write_labels, write_volume

TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
GRID = Geometry.from_parts((14, 12, 10), (0.8, 0.8, 2.5), TURN, (40.0, -70.0, 300.0))


def moved(step_mm):
    affine = GRID.affine.copy()
    affine[:3, 3] += step_mm
    return Geometry(GRID.shape, affine)


def about_its_middle(matrix):
    """The grid's axes times a matrix, its centre kept."""
    affine = GRID.affine @ np.pad(matrix, ((0, 1), (0, 1)))
    affine[3, 3] = 1
    middle = (np.array(GRID.shape) - 1) / 2
    affine[:3, 3] += GRID.to_world(middle) - (affine[:3, :3] @ middle + affine[:3, 3])
    return Geometry(GRID.shape, affine)


def flipped(axis):
    """The same places, stored from the other end: voxel by voxel it is another grid."""
    signs = np.ones(3)
    signs[axis] = -1
    return about_its_middle(np.diag(signs))


OTHER = {
    "X01": moved(50),
    "X01-a-quarter-mm": moved(0.25),
    "X02": flipped(0),
    "X02-front-to-back": flipped(1),
    "X02-head-to-feet": flipped(2),
    "X02-turned-2-degrees": about_its_middle(
        np.array([[np.cos(0.035), -np.sin(0.035), 0], [np.sin(0.035), np.cos(0.035), 0], [0, 0, 1]])
    ),
    "X03": Geometry(GRID.shape, GRID.affine @ np.diag([1, 1, 1.01, 1])),
    "X04": Geometry((14, 12, 9), GRID.affine),
    "X04-axes-exchanged": Geometry((12, 14, 10), GRID.affine[:, [1, 0, 2, 3]]),
}


def image(grid=GRID, seed=0):
    array = np.random.default_rng(seed).normal(40, 20, size=(1, *grid.shape))
    array[:, :2] = -1000
    return Volume(array.astype(np.int16), grid)


def mask(grid):
    array = np.zeros(grid.shape, np.uint8)
    array[5:8, 4:8, 3:6] = 1
    return LabelMap(array, grid)


@pytest.mark.parametrize("row", OTHER)
def test_a_label_on_another_grid(tmp_path, row):
    paths = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    write_volume(image(), paths[0])
    write_labels(mask(OTHER[row]), paths[1])
    with pytest.raises(GeometryError, match=r"expected .* found ") as caught:
        require_same_grid(read_volume(paths[0]), read_labels(paths[1]))
    assert (caught.value.code, caught.value.exit_code, caught.value.file) == ("E-GRID-MISMATCH", 4, paths[1])
    case = Case(id="a", images=(paths[0],), label=paths[1])
    report = check_dataset(Dataset(name="d", labels={"organ": 1}, cases=(case,)))
    assert ("error", "E-GRID-MISMATCH") in {(finding.severity, finding.code) for finding in report.findings}
    assert report.num_ok == 0


@pytest.mark.parametrize("grid", OTHER.values(), ids=[row.replace("X0", "X05-as-X0") for row in OTHER])
def test_x05_channels_of_one_case_on_different_grids(tmp_path, grid):
    paths = tmp_path / "t1.nii.gz", tmp_path / "t2.nii.gz"
    write_volume(image(), paths[0])
    write_volume(image(grid, seed=1), paths[1])
    with pytest.raises(GeometryError) as caught:
        read_volumes(paths, channels=2)
    assert (caught.value.code, caught.value.file) == ("E-GRID-MISMATCH", paths[1])
    dataset = Dataset(name="d", channels=("T1", "T2"), cases=(Case(id="a", images=paths),))
    found = {(finding.severity, finding.code) for finding in check_dataset(dataset).findings}
    assert ("error", "E-GRID-MISMATCH") in found


@pytest.mark.parametrize("row", ["X01", "X03"])
def test_rounding_of_a_header_is_no_other_grid(tmp_path, row):
    near = {"X01": moved(0.02), "X03": Geometry(GRID.shape, GRID.affine @ np.diag([1, 1, 1.0005, 1]))}[row]
    write_volume(image(), tmp_path / "image.nii.gz")
    write_labels(mask(near), tmp_path / "label.nii.gz")
    require_same_grid(read_volume(tmp_path / "image.nii.gz"), read_labels(tmp_path / "label.nii.gz"))
