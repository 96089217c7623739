"""Random damage of packed files and of the store: noticed, or without any effect on what is read."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

from medseg.core.errors import MedsegError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.data.store import Store, StoredCase, StoreIndex
from medseg.io.files import sha256_of
from medseg.io.volumes import read_volume, write_volume
from medseg.io.weights import save_tensors

PAGE = 512
GRID = Geometry.from_parts((20, 18, 16), (0.8, 0.8, 2.5), np.diag([-1.0, -1.0, 1.0]), (4.0, -30.0, 100.0))


def damaged(whole, rng, *, first=0):
    kind, position = rng.choice(["bit", "cut", "page"]), int(rng.integers(first, len(whole)))
    if kind == "cut":
        return whole[:position]
    data = bytearray(whole)
    if kind == "bit":
        data[position] ^= 1 << int(rng.integers(8))
    else:
        data[position : position + PAGE] = bytes(len(data[position : position + PAGE]))
    return bytes(data)


def volume():
    return Volume(np.random.default_rng(8).normal(0, 30, (1, *GRID.shape)).astype(np.int16), GRID)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nrrd"])
def test_damage_of_a_packed_file(tmp_path, name):
    path = tmp_path / name
    write_volume(volume(), path)
    whole, truth = path.read_bytes(), read_volume(path)
    # the text of an NRRD header has no checksum
    first = whole.index(b"\n\n") + 2 if name == "x.nrrd" else 0
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(200):
        path.write_bytes(damaged(whole, rng, first=first))
        try:
            found = read_volume(path)
        except MedsegError:
            refused += 1
            continue
        np.testing.assert_array_equal(found.array, truth.array)
        np.testing.assert_array_equal(found.geometry.affine, truth.geometry.affine)
    assert refused > 190


def test_a_time_stamp_is_no_damage(tmp_path):
    path = tmp_path / "x.nii.gz"
    write_volume(volume(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\1\2\3\4" + whole[8:])
    np.testing.assert_array_equal(read_volume(path).array, volume().array)
    assert gzip.decompress(path.read_bytes())


def test_damage_of_the_store(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"image": torch.from_numpy(volume().array).half()})
    entry = StoredCase(
        id="x", patient="p", file=path.name, sha256=sha256_of(path), shape=GRID.shape, known=(True,), classes={}
    )
    store = Store(tmp_path, None, None, StoreIndex(preprocessing="", cases=(entry,)))
    whole, rng = path.read_bytes(), np.random.default_rng(3)
    assert store.load("x").image.shape == (1, *GRID.shape)
    for _ in range(200):
        data = damaged(whole, rng)
        if data == whole:
            continue
        path.write_bytes(data)
        with pytest.raises(MedsegError) as caught:
            store.load("x")
        assert caught.value.code == "E-STORE-DAMAGED"
