"""What only shows when cases are compared."""

from __future__ import annotations

import pytest

from medseg.core.case import Case, Dataset
from medseg.data.cohort import compare_cases, summarise
from medseg.data.inspection import Seen

LABELS = {"left_kidney": 1, "right_kidney": 2}


def seen(name: str, **facts) -> Seen:
    known = {
        "content": name,
        "label_content": f"mask of {name}",
        "spacing_mm": (1.0, 1.0, 2.0),
        "shape": (100, 100, 50),
        "num_values": (500,),
        "counts": {0: 9, 1: 5, 2: 5},
        "sides": {("left_kidney", "right_kidney"): False},
    }
    case = {key: facts.pop(key) for key in ("patient", "split", "fold", "labelled") if key in facts}
    return Seen(Case(id=name, images=(f"{name}.nii",), **case), **(known | facts))


def codes(*cases: Seen) -> list[tuple[str, str]]:
    dataset = Dataset(name="d", labels=LABELS, cases=tuple(one.case for one in cases))
    findings = [*summarise(dataset, cases), *compare_cases(dataset, cases)]
    return [(one.code, one.case) for one in findings if one.code != "W-NO-MASK"]


def test_sound_cases():
    assert codes(*(seen(name) for name in "abcd")) == []


@pytest.mark.parametrize(
    ("shape", "is_told"),
    [((200, 200, 110), True), ((200, 200, 100), False), ((50, 50, 25), False), ((50, 50, 24), True)],
)
def test_eight_times_the_voxels_are_unusual(shape, is_told):
    assert codes(seen("a"), seen("b"), seen("c", shape=shape)) == ([("W-SIZE", "c")] if is_told else [])


def test_two_cases_have_no_usual_size():
    assert codes(seen("a"), seen("b", shape=(500, 500, 500), spacing_mm=(9.0, 9.0, 9.0))) == []


def test_a_mask_among_images_is_told_but_a_cohort_of_shapes_is_not():
    images = [seen(name) for name in "abcd"]
    assert codes(*images, seen("m", num_values=(3,))) == [("W-FEW-VALUES", "m")]
    assert codes(*(seen(name, num_values=(2,)) for name in "abcd"), seen("e")) == []
    assert codes(*images, seen("m", num_values=(17,))) == []


def test_one_mask_under_two_images():
    assert codes(seen("a"), seen("b", label_content="mask of a"), seen("c")) == [("W-DUPLICATE-MASK", "b")]


def test_one_mask_under_many_images_is_a_template():
    assert codes(*(seen(name, label_content="t") for name in "abc")) == []


def test_the_same_image_twice_is_told_once_and_names_the_splits():
    first, second = seen("a", split="train"), seen("b", split="test", content="a", label_content="mask of a")
    found = codes(first, second)
    assert found == [("E-DUPLICATE", "b")]
    dataset = Dataset(name="d", labels=LABELS, cases=(first.case, second.case))
    message = compare_cases(dataset, [first, second])[0].message
    assert message == "the same voxels as case a, which is in train; this one in test"


def test_a_mirrored_cohort_needs_all_cases_and_three_of_them():
    swapped = {("left_kidney", "right_kidney"): True}
    assert codes(*(seen(name, sides=swapped) for name in "abc")) == [("W-LEFT-RIGHT", "")]
    assert codes(*(seen(name, sides=swapped) for name in "ab")) == []
    assert codes(*(seen(name, sides=swapped) for name in "abc"), seen("d")) == []
    assert codes(*(seen(name, sides=swapped) for name in "abc"), seen("d", sides={})) == [("W-LEFT-RIGHT", "")]


def test_labels_of_a_part_of_the_masks():
    whole = [seen(name) for name in "abcd"]
    assert codes(*whole, seen("e", counts={0: 9, 1: 5})) == [("W-LABEL-PARTIAL", "")]
    assert codes(*whole, seen("e", counts={0: 9, 1: 5}, labelled=("left_kidney",))) == []
    bare = [seen(name, counts={0: 9, 1: 5}) for name in "abcd"]
    assert codes(*bare) == [("W-LABEL-ABSENT", "")]
    assert codes(*bare, seen("e")) == []


def test_values_that_teach_nothing_are_told():
    cases = [
        Case(id=name, images=(f"{name}.nii",), values={"age": 50.0, **({"bmd": float(number)} if number else {})})
        for number, name in enumerate("abc")
    ]
    dataset = Dataset(name="d", targets={"age": "years", "bmd": "", "weight": "kg"}, cases=tuple(cases))
    found = {(one.code, one.message) for one in summarise(dataset, [])}
    assert found == {
        ("W-VALUE-CONSTANT", "target 'age' is 50 years in all 3 cases that have it"),
        ("W-NO-VALUE", "1 cases have no value of target 'bmd'"),
        ("W-VALUE-ABSENT", "no case has a value of target 'weight'"),
    }
