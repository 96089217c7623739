from __future__ import annotations

import ctypes
import os
import platform
import shutil
from pathlib import Path

import pytest
import torch

from medseg.core.errors import InputError
from medseg.core.plan import IGNORE_INDEX
from medseg.data.crop import crop_case
from medseg.data.patches import PatchSampler, class_view
from medseg.data.residency import GIB, FiledTensor, choose, filed_tensors
from medseg.data.store import LoadedCase, Store, open_store
from medseg.io.files import sha256_of
from medseg.io.weights import save_tensors

NUM_STEPS = 6


@pytest.fixture
def store(workspace, tmp_path) -> Store:
    """A store of its own, with patches that stick out of the cases."""
    shutil.copytree(workspace.store, tmp_path / "store")
    opened = open_store(tmp_path / "store")
    plan = opened.plan.model_copy(update={"patch_size": (24, 40, 16), "batch_size": 4})
    return Store(opened.folder, plan, opened.dataset, opened.index)


@pytest.mark.parametrize(
    ("data", "ram", "gpu", "place"),
    [(5, 8, 0, "ram"), (5, 5, 0, "ram"), (6, 5, 0, "files"), (6, 5, 6, "gpu"), (6, 9, 5, "ram"), (1, 0, 0, "files")],
)
def test_the_fastest_place_that_holds_all_is_chosen(data, ram, gpu, place):
    chosen = choose(data * GIB, ram_bytes=ram * GIB, gpu_bytes=gpu * GIB)
    assert chosen.place == place
    assert (chosen.data_gib, chosen.ram_gib, chosen.gpu_gib) == (data, ram, gpu)
    assert chosen.words.startswith(f"{data} GiB of cases are kept ")
    assert ("of the GPU" in chosen.words) == bool(gpu)


def test_the_batches_are_the_same_bit_for_bit_wherever_the_cases_are(store):
    """The device's place is tried on the CPU: the way there is the same."""
    places = {"ram": None, "files": None, "gpu": torch.device("cpu")}
    ids = [entry.id for entry in store.index.cases]
    samplers = {
        place: PatchSampler([store.load(case, place, device) for case in ids], store.plan, seed=4, channel_dropout=0.2)
        for place, device in places.items()
    }
    for step in range(NUM_STEPS):
        expected = samplers["ram"].batch(step)
        for place in ("files", "gpu"):
            batch = samplers[place].batch(step)
            assert batch.cases == expected.cases
            for ours, theirs in [
                (batch.image, expected.image),
                (batch.labels, expected.labels),
                (batch.known, expected.known),
                *((batch.classes[head], values) for head, values in expected.classes.items()),
            ]:
                assert torch.equal(ours, theirs)


def test_the_view_of_the_diagnosis_is_the_same_too(store):
    whole = store.plan.classification.model_copy(update={"view": "whole"})
    for plan in (store.plan, store.plan.model_copy(update={"classification": whole})):
        for entry in store.index.cases[:2]:
            kept, filed = (class_view(store.load(entry.id, place), plan) for place in ("ram", "files"))
            assert torch.equal(kept[0], filed[0])
            assert torch.equal(kept[1], filed[1])


def test_patches_of_cases_on_another_device_are_cut_there(store):
    """`meta` holds shapes alone and refuses to be mixed with anything else."""
    cases = []
    for entry in store.index.cases[:3]:
        case = store.load(entry.id)
        unlabelled = case.labels[:0] if entry.id == store.index.cases[0].id else case.labels
        cases.append(LoadedCase(case.entry, case.image.to("meta"), unlabelled.to("meta"), case.foreground))
    for step in range(NUM_STEPS):
        batch = PatchSampler(cases, store.plan, seed=step).batch(step)
        assert batch.image.device.type == batch.labels.device.type == "meta"


def test_a_case_in_its_file_without_a_reference_teaches_nothing(store):
    path = store.folder / "alone.safetensors"
    save_tensors(path, {"image": torch.ones(1, 6, 5, 4).half()})
    filed, entry = filed_tensors(path, case="a"), store.index.cases[0]
    assert list(filed) == ["image"]
    case = LoadedCase(
        entry, filed["image"], torch.zeros((0, 0, 0), dtype=torch.uint8), torch.zeros((0, 4), dtype=torch.int16)
    )
    image, labels = crop_case(case, torch.tensor([-1, 2, 0]).numpy(), (4, 2, 2))
    assert image[:, 0].count_nonzero() == 0
    assert (image[:, 1:] == 1).all()
    assert (labels == IGNORE_INDEX).all()


def test_a_part_of_a_tensor_in_a_file_is_that_part(tmp_path):
    whole = torch.arange(2 * 5 * 6 * 7, dtype=torch.int16).reshape(2, 5, 6, 7)
    save_tensors(tmp_path / "x.safetensors", {"image": whole})
    filed = filed_tensors(tmp_path / "x.safetensors", case="a")["image"]
    assert (filed.shape, filed.numel(), len(filed)) == ((2, 5, 6, 7), 420, 2)
    assert torch.equal(filed[:], whole)
    box = (..., slice(1, 4), slice(0, 6), slice(2, 3))
    assert torch.equal(filed[box], whole[box])
    assert filed[..., slice(2, 2), slice(0, 6), slice(2, 3)].numel() == 0


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_file_that_is_harmed_while_it_is_trained_on_is_named_with_its_case(store, harm):
    entry = store.index.cases[0]
    case = store.load(entry.id, "files")
    path = store.folder / entry.file
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"can no longer be read") as caught:
        class_view(case, store.plan)
    assert (caught.value.code, caught.value.file, caught.value.case) == ("E-STORE-DAMAGED", path, entry.id)


def test_a_damaged_file_is_refused_before_it_is_trained_on(store):
    entry = store.index.cases[0]
    path = store.folder / entry.file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        store.load(entry.id, "files")
    assert caught.value.code == "E-STORE-DAMAGED"


def test_nothing_is_read_before_it_is_asked_for(store, monkeypatch):
    case = store.load(store.index.cases[0].id, "files")
    asked = []
    plain = FiledTensor.__getitem__
    monkeypatch.setattr(FiledTensor, "__getitem__", lambda self, part: asked.append(self.name) or plain(self, part))
    crop_case(case, torch.tensor([2, 2, 2]).numpy(), (4, 4, 4))
    assert asked == ["image", "labels"]


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how much memory is taken is asked of Linux and glibc")
def test_memory_stays_flat_however_many_cases_there_are_in_their_files(store):
    """Measured; the same cases in memory are the control."""
    shape, entries = (112, 160, 160), []
    labels = torch.zeros(shape, dtype=torch.uint8)
    labels[50:60, 50:60, 50:60] = 1
    points = torch.cat([torch.ones(1000, 1), torch.argwhere(labels == 1)], dim=1).short()
    for number, like in enumerate(store.index.cases):
        path = store.folder / f"cases/big{number}.safetensors"
        image = torch.full((1, *shape), float(number)).half()
        save_tensors(path, {"image": image, "labels": labels, "foreground": points})
        changed = {"id": path.stem, "file": f"cases/{path.name}", "sha256": sha256_of(path), "shape": shape}
        entries.append(like.model_copy(update=changed))
    index = store.index.model_copy(update={"cases": tuple(entries)})
    large = Store(store.folder, store.plan.model_copy(update={"classification": None}), store.dataset, index)
    data_mib = sum((store.folder / entry.file).stat().st_size for entry in entries) / 2**20
    assert data_mib > 60

    def most_taken(place) -> float:
        ctypes.CDLL(None).malloc_trim(0)  # memory that was used before would be used again
        before, most = _resident_mib(), 0.0
        sampler = PatchSampler([large.load(entry.id, place) for entry in entries], large.plan, seed=1)
        for step in range(10):
            sampler.batch(step)
            most = max(most, _resident_mib() - before)
        return most

    most_taken("files")  # whatever is loaded at the first use
    assert most_taken("files") < 0.25 * data_mib
    assert most_taken("ram") > 0.6 * data_mib
