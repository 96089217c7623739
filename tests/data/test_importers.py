from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medseg.core.case import Dataset
from medseg.core.errors import InputError, MedsegError, UsageError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.importers import import_dataset
from medseg.data.importers.draft import case_key, is_mask_name, modality_of
from medseg.data.manifest import read_manifest
from medseg.io.volumes import read_volume, write_labels, write_volume

REAL_DATA = Path(os.environ.get("MEDSEG_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
GRID = Geometry.from_parts((6, 5, 4), (1.0, 1.2, 3.0), [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]], (-30, 20, 500))


def _image(path: Path, *, air: bool = True, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.arange(120 * channels, dtype=np.int16).reshape(channels, 6, 5, 4)
    write_volume(Volume(array - 1000 if air else array, GRID), path)
    return path


def _mask(path: Path, *values: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(GRID.shape, dtype=np.uint8)
    array.flat[: len(values)] = values
    write_labels(LabelMap(array, GRID), path)
    return path


def _json(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


@pytest.fixture
def bring(tmp_path):
    """Import from tmp_path/source and make sure that what was written is what was returned."""

    def run(source: str = "source", **options) -> Dataset:
        out = tmp_path / "out" / "m.json"
        out.parent.mkdir(exist_ok=True)
        dataset = import_dataset(tmp_path / source, out=out, **options)
        assert read_manifest(out) == dataset
        return dataset

    return run


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def _refused(bring, code, kind: type[MedsegError] = InputError, **options) -> str:
    with pytest.raises(kind) as caught:
        bring(**options)
    assert caught.value.code == code
    return str(caught.value)


# --- dataset.json ---------------------------------------------------------------------------------------------------


def _decathlon(folder: Path, **changes) -> None:
    for name in ("a", "b"):
        _image(folder / "imagesTr" / f"{name}.nii.gz", channels=2)
        _mask(folder / "labelsTr" / f"{name}.nii.gz", 1, 2)
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("b", "a")]
    values = {
        "name": "Liver",
        "licence": "CC",
        "description": "both",
        "modality": {"1": "T1w", "0": "FLAIR"},
        "labels": {"0": "background", "2": "tumour", "1": "liver"},
        "training": training,
        "test": ["./imagesTs/x.nii.gz"],
    }
    _json(folder / "dataset.json", values | changes)


@pytest.mark.parametrize("path", ["source", "source/dataset.json"])
def test_decathlon(bring, source, path):
    _decathlon(source)
    dataset = bring(path)
    assert (dataset.name, dataset.licence) == ("Liver", "CC")
    assert dataset.channels == ("MRI", "MRI")
    assert dataset.labels == {"liver": 1, "tumour": 2}
    assert [case.id for case in dataset.cases] == ["b", "a"]
    assert dataset.case("a").label == source / "labelsTr" / "a.nii.gz"
    assert dataset.case("a").split is None
    assert "1 images without labels were left out" in dataset.description
    assert "channels: FLAIR, T1w" in dataset.description


@pytest.mark.parametrize("name", ["task.tar", "task.tar.gz", "task.zip"])
def test_a_dataset_in_an_archive(bring, source, tmp_path, name):
    _decathlon(source)
    kind = {"tar": "tar", "gz": "gztar", "zip": "zip"}[name.split(".")[-1]]
    shutil.make_archive(str(tmp_path / "task"), kind, root_dir=tmp_path, base_dir="source")
    dataset = bring(name)
    assert {path.parents[2] for case in dataset.cases for path in case.images} == {tmp_path / "out" / "m_files"}


def test_a_hostile_archive_leaves_nothing(bring, tmp_path):
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        archive.writestr("../evil.json", "{}")
    assert _refused(lambda **_: bring("task.zip"), "E-PATH-ESCAPE")
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "evil.json").exists()


def test_options_win_over_the_source(bring, source):
    _decathlon(source)
    dataset = bring(name="mine", channels=("CT", "PET"), labels={"organ": 2})
    assert (dataset.name, dataset.channels, dataset.labels) == ("mine", ("CT", "PET"), {"organ": 2})


def test_a_listed_file_that_is_missing(bring, source):
    _decathlon(source)
    (source / "labelsTr" / "a.nii.gz").unlink()
    message = _refused(bring, "E-NOT-FOUND")
    assert "case a" in message
    assert "labelsTr/a.nii.gz" in message


def _nnunet(folder: Path, **changes) -> None:
    for name in ("x_1", "x_2"):
        for channel in (0, 1):
            _image(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
        _mask(folder / "labelsTr" / f"{name}.nii.gz", 1, 3)
    for name in ("t_1", "t_2"):
        for channel in (0, 1):
            _image(folder / "imagesTs" / f"{name}_{channel:04d}.nii.gz")
    _mask(folder / "labelsTs" / "t_2.nii.gz", 1)
    values = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "liver": 1, "ignore": 3},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    _json(folder / "dataset.json", values | changes)


def test_nnunet_raw(bring, source):
    _nnunet(source)
    dataset = bring()
    assert dataset.channels == ("CT", "PET")
    assert (dataset.labels, dataset.ignore_value) == ({"liver": 1}, 3)
    assert [(case.id, case.split) for case in dataset.cases] == [("x_1", None), ("x_2", None), ("t_2", "test")]
    assert [path.name for path in dataset.case("x_1").images] == ["x_1_0000.nii.gz", "x_1_0001.nii.gz"]


def test_an_ignored_value_is_no_label(bring, source):
    _nnunet(source, labels={"background": 0, "ignore": 3})
    dataset = bring()
    assert (dataset.labels, dataset.ignore_value) == ({"label_1": 1}, 3)


def test_nnunet_version_1_lists_files_without_channel_numbers(bring, source):
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("x_1", "x_2")]
    _nnunet(source, training=entries)
    dataset = bring()
    assert [path.name for path in dataset.case("x_2").images] == ["x_2_0000.nii.gz", "x_2_0001.nii.gz"]


def test_regions_are_refused(bring, source):
    _nnunet(source, labels={"background": 0, "whole": [1, 2], "core": [2]})
    assert "'whole'" in _refused(bring, "E-REGION-LABELS", UsageError)


def test_a_label_without_number(bring, source):
    _nnunet(source, labels={"background": 0, "liver": "one"})
    assert "'one'" in _refused(bring, "E-CONFIG", UsageError)
    _nnunet(source, labels=["liver"])
    assert "must be an object" in _refused(bring, "E-CONFIG", UsageError)


def test_monai_datalist_with_folds_and_masks(bring, source):
    for name in ("p1", "p2", "p3"):
        _image(source / name / "ct.nii.gz")
        _mask(source / name / "seg.nii.gz", 4)
    rows = [
        {"image": [f"{n}/ct.nii.gz"], "label": f"{n}/seg.nii.gz", "fold": fold, "site": 7}
        for fold, n in enumerate(("p1", "p2", "p3"))
    ]
    _json(source / "list.json", {"training": rows})
    dataset = bring("source/list.json")
    assert [(case.id, case.fold, case.split) for case in dataset.cases] == [
        ("p1", 0, None),
        ("p2", 1, None),
        ("p3", 2, None),
    ]
    assert dataset.labels == {"label_4": 4}
    assert dataset.channels == ("CT",)
    assert dataset.cases[0].attributes == {"site": "7"}


def test_monai_datalist_with_classes_and_validation(bring, source):
    for name in ("p1", "p2", "p3"):
        _image(source / f"{name}.nii.gz", air=False)
    _json(
        source / "list.json",
        {
            "training": [{"image": "p1.nii.gz", "label": 1}, {"image": "p2.nii.gz", "label": 0}],
            "validation": [{"image": "p3.nii.gz", "label": 1}],
            "testing": [{"image": "p4.nii.gz"}],
        },
    )
    dataset = bring("source/list.json", classes=("benign", "malignant"))
    assert dataset.heads == {"class": ("benign", "malignant")}
    assert [(case.classes["class"], case.split) for case in dataset.cases] == [
        ("malignant", "train"),
        ("benign", "train"),
        ("malignant", "val"),
    ]
    assert dataset.labels == {}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schema_version": 1, "cases": []}, "a manifest of medseg already"),
        ({"labels": {"liver": 1}}, "lists no labelled cases"),
    ],
)
def test_json_of_another_kind(bring, source, values, words):
    _json(source / "dataset.json", values)
    assert words in _refused(bring, "E-IMPORT")


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_table(bring, source, delimiter):
    for name in ("a", "b"):
        _image(source / f"{name}.nii.gz")
        _image(source / f"{name}_pet.nii.gz", air=False)
        _mask(source / f"{name}_seg.nii.gz", 1)
    rows = [
        "Case_ID,patient_id,image,image_2,label,labelled,class_kind,class,split,fold,Site",
        "one,p1,a.nii.gz,a_pet.nii.gz,a_seg.nii.gz,label_1,yes,2,training,0,Bern",
        "two,p1,b.nii.gz,b_pet.nii.gz,,,no,10,valid,1,",
    ]
    (source / "t.csv").write_text("\ufeff" + "\n".join(rows).replace(",", delimiter), encoding="utf-8")
    dataset = bring("source/t.csv")
    assert dataset.channels == ("CT", "PET")
    assert dataset.heads == {"kind": ("no", "yes"), "class": ("2", "10")}
    one, two = dataset.cases
    assert (one.id, one.patient, one.split, one.fold, one.labelled) == ("one", "p1", "train", 0, ("label_1",))
    assert (one.classes, one.attributes) == ({"kind": "yes", "class": "2"}, {"site": "Bern"})
    assert (two.label, two.split, two.attributes) == (None, "val", {})


def test_table_without_ids_names_cases_by_file(bring, source):
    for name in ("a", "b"):
        _image(source / name / "ct.nii.gz")
    (source / "t.csv").write_text("image\na/ct.nii.gz\nb/ct.nii.gz\n", encoding="utf-8")
    assert [case.id for case in bring().cases] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "kind", "code", "words"),
    [
        ("", InputError, "E-IMPORT", "no rows"),
        ("case_id,img\na,a.nii.gz\n", UsageError, "E-TABLE", "no column 'image'"),
        ("case_id,image,label\na,,x.nii\nb,b.nii,x.nii", UsageError, "E-TABLE", "case a"),
        ("case_id,image,split\na,a.nii,tuning\n", UsageError, "E-CONFIG", "case a"),
        ("case_id,image,fold\na,a.nii,x\n", UsageError, "E-CONFIG", "fold"),
        ("case_id,image\na,missing.nii\n", InputError, "E-NOT-FOUND", "case a"),
    ],
)
def test_wrong_tables(bring, source, text, kind, code, words):
    (source / "t.csv").write_text(text, encoding="utf-8")
    assert words in _refused(bring, code, kind, source="source/t.csv")


def test_table_in_another_encoding(bring, source):
    (source / "t.csv").write_bytes("image,site\na.nii,Zürich\n".encode("latin-1"))
    assert "UTF-8" in _refused(bring, "E-IMPORT", source="source/t.csv")


# --- folders --------------------------------------------------------------------------------------------------------


def _ids_and_files(dataset: Dataset, root: Path) -> list[tuple[str, list[str], str | None]]:
    return [
        (
            case.id,
            [path.relative_to(root).as_posix() for path in case.images],
            case.label and case.label.relative_to(root).as_posix(),
        )
        for case in dataset.cases
    ]


@pytest.mark.parametrize(("images", "masks"), [("images", "labels"), ("ct", "oar"), ("imagesTr", "segmentations")])
def test_two_subfolders(bring, source, images, masks):
    for name in ("p2", "p1"):
        _image(source / images / f"{name}.nii.gz")
        _mask(source / masks / f"{name}.nii.gz", 1, 5)
    _image(source / images / "p3.nii.gz")
    dataset = bring()
    assert _ids_and_files(dataset, source) == [
        ("p1", [f"{images}/p1.nii.gz"], f"{masks}/p1.nii.gz"),
        ("p2", [f"{images}/p2.nii.gz"], f"{masks}/p2.nii.gz"),
        ("p3", [f"{images}/p3.nii.gz"], None),
    ]
    assert dataset.labels == {"label_1": 1, "label_5": 5}
    assert dataset.channels == ("CT",)


def test_a_subfolder_per_channel(bring, source):
    for name in ("p1", "p2"):
        for kind in ("ct", "pet"):
            _image(source / kind / f"{name}.nrrd")
        _mask(source / "gt" / f"{name}.nrrd", 1)
    dataset = bring()
    assert dataset.channels == ("CT", "PET")
    assert _ids_and_files(dataset, source)[0] == ("p1", ["ct/p1.nrrd", "pet/p1.nrrd"], "gt/p1.nrrd")
    (source / "pet" / "p2.nrrd").unlink()
    assert "case p2 lacks one of the 2 channels" in _refused(bring, "E-IMPORT")


def test_names_that_differ_by_their_role_only(bring, source):
    _image(source / "images" / "p1_ct.nii.gz")
    _mask(source / "masks" / "p1_mask.nii.gz", 1)
    assert _ids_and_files(bring(), source) == [("p1", ["images/p1_ct.nii.gz"], "masks/p1_mask.nii.gz")]


def test_pairs_in_one_folder(bring, source):
    for name in ("brain1", "lung1"):
        _image(source / f"{name}_image.nrrd")
        _mask(source / f"{name}_label.nrrd", 1)
    assert _ids_and_files(bring(), source) == [
        ("brain1", ["brain1_image.nrrd"], "brain1_label.nrrd"),
        ("lung1", ["lung1_image.nrrd"], "lung1_label.nrrd"),
    ]


def test_channel_numbers_in_one_folder(bring, source):
    for name in ("a", "b"):
        for channel in (0, 1):
            _image(source / f"{name}_{channel:04d}.nii.gz", air=False)
    dataset = bring()
    assert [len(case.images) for case in dataset.cases] == [2, 2]
    assert dataset.channels == ("MRI", "MRI")
    (source / "b_0001.nii.gz").unlink()
    assert "case b" in _refused(bring, "E-IMPORT")


@pytest.mark.parametrize("inside", [".", "scans"])
def test_images_alone(bring, source, inside):
    _image(source / inside / "b c.nii.gz")
    _image(source / inside / "a.mha")
    dataset = bring()
    assert [case.id for case in dataset.cases] == ["a", "b_c"]
    assert dataset.labels == {}


def test_one_folder_per_case_with_a_table_of_classes(bring, source):
    for n, name in enumerate(("S1", "S2", "S3")):
        _image(source / name / "PET_image.nii.gz", air=False)
        _mask(source / name / "PET_mask.nii.gz", *range(n + 1))
    (source / "outcome.csv").write_text("patient,metastasis\nS1,0\nS2,1\n", encoding="utf-8")
    dataset = bring(classes=("no", "yes"))
    assert dataset.channels == ("PET",)
    assert dataset.heads == {"metastasis": ("no", "yes")}
    assert [case.classes for case in dataset.cases] == [{"metastasis": "no"}, {"metastasis": "yes"}, {}]
    assert _ids_and_files(dataset, source)[1] == ("S2", ["S2/PET_image.nii.gz"], "S2/PET_mask.nii.gz")


def test_a_table_beside_images_with_more_columns(bring, source):
    for name in ("a", "b"):
        _image(source / f"{name}.nii.gz")
    (source / "info.csv").write_text("id,class_kind,age\na,x,60\nb,y,70\n", encoding="utf-8")
    dataset = bring()
    assert dataset.heads == {"kind": ("x", "y")}
    assert dataset.case("b").attributes == {"age": "70"}
    (source / "info.csv").write_text("id,class_kind\nq,x\nr,y\n", encoding="utf-8")
    assert bring().heads == {}


def test_several_images_per_case_folder(bring, source):
    for name in ("BraTS_1", "BraTS_2"):
        for kind in ("t1", "flair"):
            _image(source / name / f"{name}_{kind}.nii.gz", air=False)
        _mask(source / name / f"{name}_seg.nii.gz", 1, 4)
        _mask(source / name / f"{name}_brainmask.nii.gz", 1)
    dataset = bring()
    assert dataset.channels == ("MRI", "MRI")
    assert _ids_and_files(dataset, source)[1] == (
        "BraTS_2",
        ["BraTS_2/BraTS_2_flair.nii.gz", "BraTS_2/BraTS_2_t1.nii.gz"],
        "BraTS_2/BraTS_2_seg.nii.gz",
    )
    (source / "BraTS_2" / "BraTS_2_t1.nii.gz").unlink()
    assert "case BraTS_2" in _refused(bring, "E-IMPORT")


def test_patterns_settle_what_names_do_not(bring, source):
    for name in ("p1", "p2"):
        for kind in ("Flair_a", "T1c_a", "OTMulti"):
            _image(source / name / f"{kind}.nii.gz", air=False)
    assert "cannot be told" in _refused(bring, "E-IMPORT")
    dataset = bring(images="Flair*,T1c*", masks="OTMulti*")
    assert _ids_and_files(dataset, source)[0] == (
        "p1",
        ["p1/Flair_a.nii.gz", "p1/T1c_a.nii.gz"],
        "p1/OTMulti.nii.gz",
    )
    assert dataset.cases == bring(images="*/Flair_a.nii.gz, */T1c_a.nii.gz", masks="*/OTMulti.nii.gz").cases


def test_subfolders_named_by_the_caller(bring, source):
    for name in ("p1", "p2"):
        _image(source / "one" / f"{name}.nii.gz")
        _mask(source / "two" / f"{name}.nii.gz", 1)
    dataset = bring(images="one", masks="two")
    assert _ids_and_files(dataset, source)[1] == ("p2", ["one/p2.nii.gz"], "two/p2.nii.gz")


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ([], {}, "no images"),
        (["a/s1_mask.nii", "b/s2_mask.nii"], {"masks": "*/s*"}, "no images"),
        (["a.nii"], {"images": "ct_*"}, "no image matches 'ct_*'"),
        (["labelsTr/a.nii", "imagesTr/a.nii", "labelsTs/b.nii", "imagesTs/b.nii"], {}, "several masks"),
        (["p1/ct.nii", "p1/liver_mask.nii", "p1/tumour_mask.nii", "p2/ct.nii"], {}, "several masks"),
        (["x_image.nii", "x_mask.nii", "x_seg.nii"], {}, "several masks"),
        (["images/a.nii", "labels/b.nii"], {}, "no images match"),
        (["images/a.nii", "labels/a.nii", "labels/b.nii"], {}, "1 masks have no image, as b.nii"),
        (["p/a_image.nii", "p/a_x.nii", "p/a_seg.nii"], {"images": "*/a_image*", "masks": "*/a*"}, "several masks"),
        ([f"{side}/c{n}.nii" for side in ("one", "two") for n in range(9)], {}, "none is named as masks"),
    ],
)
def test_folders_that_cannot_be_told(bring, source, files, options, words):
    for file in files:
        path = source / file
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert words in _refused(bring, "E-IMPORT", **options)


def test_patterns_need_a_folder(bring, source):
    (source / "t.csv").write_text("image\na.nii\n", encoding="utf-8")
    _refused(bring, "E-IMPORT", UsageError, source="source/t.csv", masks="x")


def test_unknown_suffix(bring, source):
    (source / "a.pdf").touch()
    assert "'.pdf'" in _refused(bring, "E-IMPORT", source="source/a.pdf")
    _refused(bring, "E-NOT-FOUND", source="nowhere")


def test_dicom_folders_count_as_images(bring, source):
    (source / "images" / "p1").mkdir(parents=True)
    (source / "images" / "p1" / "1.dcm").touch()
    _mask(source / "labels" / "p1.nii.gz", 1)
    dataset = bring(channels=("CT",))
    assert _ids_and_files(dataset, source) == [("p1", ["images/p1"], "labels/p1.nii.gz")]
    alone = bring("source/images/p1", channels=("CT",))
    assert [case.images for case in alone.cases] == [(source / "images" / "p1",)]


def test_dicom_files_need_no_suffix(bring, source):
    for name in ("p1", "p2"):
        (source / "images" / name).mkdir(parents=True)
        (source / "images" / name / "IM0001").write_bytes(bytes(128) + b"DICM")
        (source / "images" / name / ".index").touch()
        _mask(source / "labels" / f"{name}.nii.gz", 1)
    dataset = bring(channels=("CT",))
    assert [case.id for case in dataset.cases] == ["p1", "p2"]


def test_what_is_absent_is_not_annotated(bring, source):
    for name, values in (("a", (1, 2)), ("b", (2,)), ("c", ())):
        _image(source / "images" / f"{name}.nii.gz")
        _mask(source / "labels" / f"{name}.nii.gz", *values)
    _image(source / "images" / "d.nii.gz")
    labels = {"mandible": 2, "brainstem": 1}
    dataset = bring(labels=labels, absent_is_unlabelled=True)
    assert [case.labelled for case in dataset.cases] == [("brainstem", "mandible"), ("mandible",), (), None]
    assert [case.labelled for case in bring(labels=labels).cases] == [None] * 4


def test_a_damaged_mask_is_named(bring, source):
    _image(source / "images" / "a.nii.gz")
    (source / "labels").mkdir()
    (source / "labels" / "a.nii.gz").write_text("no", encoding="utf-8")
    with pytest.raises(InputError, match="case a"):
        bring()


# --- classes, channels, names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "cells", "classes", "words"),
    [
        ("class", ("x", "x"), (), "one class only"),
        ("class", ("0", "2"), ("no", "yes"), "class '2' is none of"),
        ("class_a,class_b", ("x,y", "y,x"), ("x", "y"), "2 classification heads"),
    ],
)
def test_classes_that_do_not_fit(bring, source, header, cells, classes, words):
    for name in ("a", "b"):
        _image(source / f"{name}.nii.gz")
    rows = [f"{name}.nii.gz,{cell}" for name, cell in zip(("a", "b"), cells, strict=True)]
    (source / "t.csv").write_text("\n".join([f"image,{header}", *rows]), encoding="utf-8")
    assert words in _refused(bring, "E-CLASS-NAME", UsageError, source="source/t.csv", classes=classes)


def test_channels_the_images_do_not_have(bring, source):
    _decathlon(source, modality={"0": "noNorm"})
    with pytest.raises(InputError, match="case b"):
        bring()


def test_channels_without_a_speaking_name_are_looked_at(bring, source):
    _decathlon(source, modality={"0": "noNorm", "1": "PET"})
    dataset = bring()
    assert dataset.channels == ("CT", "PET")
    assert "modality guessed from the voxels of case b" in dataset.description


@pytest.mark.parametrize(
    ("name", "is_mask"),
    [("PET_mask", True), ("labelsTr", True), ("brainMask", False), ("seg", True), ("segment", True), ("image", False)],
)
def test_mask_names(name, is_mask):
    assert is_mask_name(name) is is_mask


def test_words_in_names():
    assert modality_of("STS_001_PET") == "PET"
    assert modality_of("pt_1") is None
    assert case_key("lung1_image") == "lung1"
    assert case_key("case-7.seg") == "case_7"


# --- MedMNIST -------------------------------------------------------------------------------------------------------


def _archive(folder: Path, **changes) -> Path:
    rng = np.random.default_rng(1)
    arrays = {}
    for split, count in (("train", 4), ("val", 2)):
        arrays[f"{split}_images"] = rng.integers(0, 255, size=(count, 7, 6, 5), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count).reshape(-1, 1) % 2
    np.savez(folder / "tiny.npz", **(arrays | changes))
    return folder / "tiny.npz"


@pytest.mark.parametrize("path", ["source", "source/tiny.npz"])
def test_medmnist(bring, source, tmp_path, path):
    with np.load(_archive(source)) as archive:
        expected = archive["val_images"][1]
    dataset = bring(path, classes=("normal", "mass"))
    assert dataset.heads == {"class": ("normal", "mass")}
    assert [case.split for case in dataset.cases] == ["train"] * 4 + ["val"] * 2
    last = dataset.cases[-1]
    assert last.classes == {"class": "mass"}
    assert last.images[0].parent == tmp_path / "out" / "m_volumes"
    np.testing.assert_array_equal(read_volume(last.images[0]).array[0], expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": np.zeros((4, 7, 6), np.uint8)}, "expected (N, I, J, K)"),
        ({"train_labels": np.zeros((4, 3), np.uint8)}, "with labels (4, 3)"),
        ({"train_images": np.array([{}] * 4)}, "not a readable .npz"),
    ],
)
def test_archives_of_another_kind(bring, source, changes, words):
    _archive(source, **changes)
    assert words in _refused(bring, "E-IMPORT")


def test_damaged_archives(bring, source):
    path = _archive(source)
    path.write_bytes(path.read_bytes()[:300])
    assert "not a readable .npz" in _refused(bring, "E-IMPORT")
    np.savez(path, other=np.zeros(3))
    assert "no train_images" in _refused(bring, "E-IMPORT")


# --- real scans -----------------------------------------------------------------------------------------------------


def _real(name: str) -> Path:
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f"no folder {REAL_DATA / name}; name it with MEDSEG_REAL_DATA")
    return REAL_DATA / name


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "options", "num_cases", "channels", "labels"),
    [
        ("hippocampus", {}, 208, ("MRI",), {"anterior": 1, "posterior": 2}),
        ("sarcoma_pet", {}, 34, ("PET",), {"label_1": 1}),
        (
            "brats2013",
            {"images": "Flair*,T1c*", "masks": "OTMultiClass*"},
            4,
            ("MRI", "MRI"),
            {f"label_{n}": n for n in (1, 2, 3, 4)},
        ),
        ("adrenalmnist3d", {}, 1286, ("MRI",), {}),
        ("pyradiomics", {"channels": ("CT",)}, 3, ("CT",), {"label_1": 1}),
    ],
)
def test_real_layouts(tmp_path, name, options, num_cases, channels, labels):
    dataset = import_dataset(_real(name), out=tmp_path / "m.json", **options)
    assert (len(dataset.cases), dataset.channels, dataset.labels) == (num_cases, channels, labels)
    assert read_manifest(tmp_path / "m.json") == dataset


@pytest.mark.real_data
def test_absent_organs_of_a_real_set(tmp_path):
    source = _real("openkbp")
    names = ("brainstem", "spinal_cord", "right_parotid", "left_parotid", "esophagus", "larynx", "mandible")
    labels = {name: value for value, name in enumerate(names, start=1)}
    dataset = import_dataset(source, out=tmp_path / "m.json", labels=labels, absent_is_unlabelled=True)
    index = json.loads((source / "index.json").read_text(encoding="utf-8"))
    assert dataset.channels == ("CT",)
    assert {case.id: [labels[name] for name in case.labelled or ()] for case in dataset.cases} == {
        name: entry[2]["have"] for name, entry in index.items()
    }
