"""Probabilities in chunks, read back by our reader and by zipfile and zlib alone."""

import json
import zipfile
import zlib
from contextlib import closing

import numpy as np
import pytest

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.io.probabilities import ProbabilityFile, read_probabilities

SHAPE, CHUNK = (7, 5, 9), (7, 5, 4)
NAMES = ("background", "liver", "tumour")


@pytest.fixture
def values():
    values = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float16)
    values[1, :, :, 4:8] = 0
    return values


@pytest.fixture
def grid():
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    return Geometry.from_parts(SHAPE, (0.7, 0.8, 5.0), turn, (10.0, -20.0, 30.0))


@pytest.fixture
def path(tmp_path, values, grid):
    with closing(ProbabilityFile(tmp_path / "c.zip", NAMES, grid)) as file:
        file.begin((2, 2, 2))
        file.write(0, (0, 0, 0), np.ones((2, 2, 2), np.float16))
        file.begin(CHUNK)
        for start in (8, 0, 4):
            for channel in range(3):
                file.write(channel, (0, 0, start), values[channel, :, :, start : start + 4])
    return tmp_path / "c.zip"


def test_they_come_back_with_names_and_grid(path, values, grid):
    array, names, geometry = read_probabilities(path)
    assert np.array_equal(array, values)
    assert names == NAMES
    assert geometry.agrees_with(grid, tolerance_mm=1e-9)


def test_one_class_is_read_by_itself(path, values):
    array, names, _ = read_probabilities(path, "tumour")
    assert np.array_equal(array, values[2:])
    assert names == ("tumour",)


def test_without_medseg_as_the_documentation_says(path, values):
    with zipfile.ZipFile(path) as archive:
        meta = json.loads(archive.read(".zarray"))
        assert meta["shape"] == [3, *SHAPE]
        chunk = np.frombuffer(zlib.decompress(archive.read("2.0.0.1")), meta["dtype"]).reshape(meta["chunks"])
        assert "1.0.0.1" not in archive.namelist()
    assert np.array_equal(chunk[0], values[2, :, :, 4:8])


def test_the_same_values_are_the_same_file(path, tmp_path, values, grid):
    before = path.read_bytes()
    with closing(ProbabilityFile(tmp_path / "c.zip", NAMES, grid)) as file:
        file.begin(CHUNK)
        for start in (8, 0, 4):
            for channel in range(3):
                file.write(channel, (0, 0, start), values[channel, :, :, start : start + 4])
    assert path.read_bytes() == before


def test_damage_and_unknown_names_are_refused(path):
    with pytest.raises(InputError, match="kidney") as caught:
        read_probabilities(path, "kidney")
    assert caught.value.code == "E-PROBABILITIES"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError) as caught:
        read_probabilities(path)
    assert caught.value.code == "E-PROBABILITIES"


def test_nothing_is_written_before_the_beginning(tmp_path, grid):
    with pytest.raises(ValueError, match="begun"):
        ProbabilityFile(tmp_path / "c.zip", NAMES, grid).write(0, (0, 0, 0), np.ones(CHUNK, np.float16))
