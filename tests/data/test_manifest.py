from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.core.case import Case, Dataset
from medseg.core.errors import InputError, UsageError
from medseg.data.manifest import read_manifest, write_manifest

ROOT = Path(__file__).parents[2]


def _values(**changes: Any) -> dict[str, Any]:
    case = {"id": "a", "images": ["images/a.nii.gz"], "label": "labels/a.nii.gz", "classes": {"kind": "yes"}}
    return {
        "name": "d",
        "labels": {"liver": 1},
        "heads": {"kind": ["no", "yes"]},
        "targets": {"age": "years"},
        "cases": [case],
    } | changes


def _write(folder: Path, values: Any) -> Path:
    path = folder / "m.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


def test_paths_are_relative_on_disk_and_absolute_in_memory(tmp_path):
    dataset = Dataset(
        name="d",
        channels=("CT", "PET"),
        labels={"liver": 1, "tumour": 7},
        ignore_value=255,
        heads={"kind": ("no", "yes")},
        cases=(
            Case(
                id="a",
                patient="p1",
                images=(tmp_path / "x" / "ct.nii.gz", tmp_path.parent / "pet.nii.gz"),
                label=tmp_path / "y.nii.gz",
                labelled=("tumour",),
                classes={"kind": "no"},
                split="val",
                fold=3,
                attributes={"site": "é"},
            ),
            Case(id="b", images=(tmp_path / "z.nii.gz",), labelled=()),
        ),
    )
    path = tmp_path / "m.json"
    write_manifest(dataset, path)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["cases"][0]["images"] == ["x/ct.nii.gz", "../pet.nii.gz"]
    assert written["cases"][0]["label"] == "y.nii.gz"
    assert "split" not in written["cases"][1]
    assert read_manifest(path) == dataset


def test_moved_manifest_still_finds_its_files(tmp_path):
    path = _write(tmp_path, _values())
    moved = tmp_path / "deeper"
    moved.mkdir()
    path = path.rename(moved / "m.json")
    assert read_manifest(path).case("a").images == (moved / "images" / "a.nii.gz",)


def test_absolute_paths_are_kept(tmp_path):
    values = _values()
    values["cases"][0]["images"] = ["/data/a.nii.gz"]
    assert read_manifest(_write(tmp_path, values)).case("a").images == (Path("/data/a.nii.gz"),)


def test_embedded_manifest_is_a_generator():
    dataset = read_manifest(ROOT / "data_manifests" / "phantom.json")
    assert dataset.generator is not None
    assert (dataset.generator.seed, dataset.generator.num_cases) == (20, 90)
    assert dataset.label_names == ("organ", "lesion")


@pytest.mark.parametrize(
    ("text", "code"),
    [("{not json", "E-MANIFEST-JSON"), ("[1]", "E-MANIFEST-JSON"), ('{"name": "d"}', "E-MANIFEST-EMPTY")],
)
def test_nothing_to_work_on(tmp_path, text, code):
    with pytest.raises(InputError) as caught:
        read_manifest(_write(tmp_path, text))
    assert caught.value.code == code
    assert caught.value.file == tmp_path / "m.json"


def test_missing_file(tmp_path):
    with pytest.raises(InputError) as caught:
        read_manifest(tmp_path / "none.json")
    assert caught.value.code == "E-NOT-FOUND"


def _case(**changes: Any) -> dict[str, Any]:
    return _values(cases=[_values()["cases"][0] | changes])


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        (_values(cases=[{"id": "a", "images": ["x"]}, {"id": "a", "images": ["y"]}]), "E-CASE-DUPLICATE", "case a"),
        (_values(cases=[{"id": "Case", "images": ["x"]}, {"id": "cAse", "images": ["y"]}]), "E-NAME-CLASH", "of Case"),
        (_values(channels=["CT", "PET", "MRI"], cases=[{"id": "a", "images": ["x", "y"]}]), "E-CHANNELS", "2 files"),
        (_case(labelled=["livr"]), "E-LABEL-NAME", "did you mean 'liver'?"),
        (_case(classes={"knd": "yes"}), "E-CLASS-NAME", "did you mean 'kind'?"),
        (_case(classes={"kind": "yess"}), "E-CLASS-NAME", "did you mean 'yes'?"),
        (_case(values={"ag": 50}), "E-TARGET-NAME", "did you mean 'age'?"),
        (_values(targets={"kind": "years"}), "E-CONFIG", "kind is both a classification head and a target"),
        (_case(values={"age": float("nan")}), "E-CONFIG", "case a"),
        (_case(values={"age": "old"}), "E-CONFIG", "case a"),
        (_case(lable="x"), "E-CONFIG", "did you mean 'label'?"),
        (_case(split="training"), "E-CONFIG", "case a"),
        (_values(chanels=["CT"]), "E-CONFIG", "did you mean 'channels'?"),
        (_values(labels={"liver": 0}), "E-CONFIG", "1 to 65535"),
        (_values(cases={"a": 1}), "E-CONFIG", "must be a list"),
        (_values(cases=["a.nii.gz"]), "E-CONFIG", "must be an object"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, values, code, words):
    with pytest.raises(UsageError) as caught:
        read_manifest(_write(tmp_path, values))
    assert caught.value.code == code
    assert words in str(caught.value)
    assert str(tmp_path / "m.json") in str(caught.value)


def test_nothing_is_written_when_names_do_not_fit(tmp_path):
    dataset = Dataset(name="d", cases=(Case(id="a", images=(tmp_path / "a.nii",), labelled=("liver",)),))
    with pytest.raises(UsageError, match="E-LABEL-NAME"):
        write_manifest(dataset, tmp_path / "m.json")
    assert not list(tmp_path.iterdir())


def test_a_null_among_the_images_is_a_missing_channel(tmp_path):
    values = {
        "name": "d",
        "channels": ["MRI", "MRI", "PET"],
        "cases": [{"id": "a", "images": ["t1.nii", None, "p.nii"]}],
    }
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(values))
    case = read_manifest(path).cases[0]
    assert (case.missing, [image.name for image in case.images]) == ((1,), ["t1.nii", "p.nii"])
    write_manifest(read_manifest(path), tmp_path / "again.json")
    assert read_manifest(tmp_path / "again.json").cases[0] == case


@pytest.mark.parametrize("case", [{"images": [None, None, None]}, {"images": ["a.nii"], "missing": [0]}])
def test_missing_channels_must_add_up(tmp_path, case):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"name": "d", "channels": ["MRI", "MRI", "PET"], "cases": [{"id": "a", **case}]}))
    with pytest.raises(UsageError, match="missing ones for the 3 channels") as caught:
        read_manifest(path)
    assert caught.value.code == "E-CHANNELS"
