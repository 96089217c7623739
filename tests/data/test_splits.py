from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from medseg.core.case import Case, Dataset
from medseg.core.errors import UsageError
from medseg.data.splits import remarks_on_folds, split_cases, split_folds


def _case(number: int, **fields) -> Case:
    return Case(id=f"c{number:03d}", images=(Path(f"/d/{number}.nii.gz"),), **fields)


def _dataset(cases, heads=None) -> Dataset:
    return Dataset(name="d", cases=tuple(cases), heads=heads or {})


def test_the_folds_are_those_of_scikit_learn():
    dataset = _dataset(_case(n) for n in range(47))
    ids = sorted(case.id for case in dataset.cases)
    for fold, (train, val) in enumerate(KFold(5, shuffle=True, random_state=12345).split(ids)):
        split = split_cases(dataset, fold=fold)
        assert split.val == tuple(ids[n] for n in val)
        assert split.train == tuple(ids[n] for n in train)


@given(st.lists(st.tuples(st.integers(0, 14), st.sampled_from(["no", "yes", None])), min_size=30, max_size=60))
def test_folds_part_the_cases_and_never_a_patient(rows):
    classes = dict(rows)
    for patient in range(15):
        classes.setdefault(patient, "no")
    cases = [
        _case(n, patient=f"p{p}", classes={"k": classes[p]} if classes[p] else {}) for n, (p, _) in enumerate(rows)
    ]
    cases += [_case(100 + p, patient=f"p{p}", classes={"k": classes[p]} if classes[p] else {}) for p in range(15)]
    dataset = _dataset(cases, {"k": ("no", "yes")})
    patients = {case.id: case.patient for case in cases}
    judged = []
    for fold in range(5):
        split = split_cases(dataset, fold=fold)
        assert sorted(split.train + split.val) == sorted(patients)
        assert not {patients[name] for name in split.train} & {patients[name] for name in split.val}
        assert split == split_cases(_dataset(reversed(cases), {"k": ("no", "yes")}), fold=fold)
        judged += split.val
    assert sorted(judged) == sorted(patients)


def test_every_fold_has_its_share_of_a_rare_class():
    cases = [_case(n, classes={"k": "yes" if n % 5 == 0 else "no"}) for n in range(50)]
    dataset = _dataset(cases, {"k": ("no", "yes")})
    rare = {case.id for case in cases if case.classes["k"] == "yes"}
    for fold in range(5):
        val = split_cases(dataset, fold=fold).val
        assert len(val) == 10
        assert len(rare & set(val)) == 2


def test_marks_of_the_manifest_come_first():
    marks = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    dataset = _dataset(_case(n, split=mark) for n, mark in enumerate(marks))
    split = split_cases(dataset)
    assert split.train == tuple(f"c{n:03d}" for n in range(6))
    assert split.val == ("c006", "c007")


def test_a_fold_asked_for_deals_train_and_val_anew_but_never_test():
    marks = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    dataset = _dataset(_case(n, split=mark) for n, mark in enumerate(marks))
    split = split_cases(dataset, fold=1, num_folds=4)
    assert len(split.val) == 2
    assert sorted(split.train + split.val) == [f"c{n:03d}" for n in range(8)]


def test_folds_of_the_manifest_are_used():
    dataset = _dataset(_case(n, fold=n % 3, split="test" if n == 8 else None) for n in range(9))
    assert split_cases(dataset).val == ("c000", "c003", "c006")
    assert split_cases(dataset, fold=2).val == ("c002", "c005")
    with pytest.raises(UsageError, match="no case of the manifest is in fold 7") as caught:
        split_cases(dataset, fold=7)
    assert "[0, 1, 2]" in caught.value.remedy


@pytest.mark.parametrize(
    ("cases", "options", "words"),
    [
        ([_case(n, patient="one") for n in range(9)], {}, "1 patients cannot be dealt into 5 folds"),
        ([_case(n) for n in range(9)], {"fold": 5}, "fold 5 does not exist"),
        ([_case(n) for n in range(9)], {"fold": -1}, "fold -1 does not exist"),
        ([_case(n) for n in range(9)], {"num_folds": 1}, "1 folds leave nothing"),
        ([_case(n, split="val") for n in range(9)], {}, "no case is left to train on"),
    ],
)
def test_refusals(cases, options, words):
    with pytest.raises(UsageError, match=words) as caught:
        split_cases(_dataset(cases), **options)
    assert caught.value.code == "E-SPLIT"


def test_sites_are_dealt_evenly_and_patients_stay_together():
    cases = [_case(n, patient=f"p{n // 2}", attributes={"site": "rare" if n < 10 else "large"}) for n in range(60)]
    dataset = _dataset(cases)
    folds = split_folds(dataset, num_folds=5, stratify_by="site")
    assert sorted(case for split in folds for case in split.val) == sorted(case.id for case in cases)
    for split in folds:
        assert sum(case in split.val for case in (one.id for one in cases[:10])) == 2
        assert len({int(case[1:]) // 2 for case in split.val} & {int(case[1:]) // 2 for case in split.train}) == 0
    assert folds != split_folds(dataset, num_folds=5, stratify_by="none")


def test_an_unknown_attribute_is_refused_with_the_known_ones():
    dataset = _dataset(_case(n, attributes={"site": "a"}) for n in range(9))
    with pytest.raises(UsageError, match="no case of the manifest has an attribute 'sight'") as caught:
        split_folds(dataset, num_folds=3, stratify_by="sight")
    assert caught.value.code == "E-SPLIT"
    assert "did you mean 'site'?" in caught.value.remedy


def test_all_folds_of_the_manifest_must_be_asked_for():
    dataset = _dataset(_case(n, fold=n % 3) for n in range(9))
    assert [len(split.val) for split in split_folds(dataset, num_folds=3)] == [3, 3, 3]
    with pytest.raises(UsageError, match=r"its own folds \(0, 1, 2\)") as caught:
        split_folds(dataset, num_folds=5)
    assert "--folds 3" in caught.value.remedy


def test_a_fold_without_a_class_is_named():
    cases = [_case(n, fold=n % 3, classes={"k": "yes" if n in {0, 3} else "no"}) for n in range(9)]
    dataset = _dataset(cases, {"k": ("no", "yes", "never seen")})
    remarks = remarks_on_folds(dataset, split_folds(dataset, num_folds=3))
    assert remarks == (
        "W-FOLD-CLASS: fold 0 trains on no case of k 'yes', of which there are 2",
        "W-FOLD-CLASS: fold 1 judges no case of k 'yes', of which there are 2",
        "W-FOLD-CLASS: fold 2 judges no case of k 'yes', of which there are 2",
    )
    even = _dataset(
        [case.model_copy(update={"fold": n // 3}) for n, case in enumerate(cases[:6])], {"k": ("no", "yes")}
    )
    assert remarks_on_folds(even, split_folds(even, num_folds=2)) == ()
