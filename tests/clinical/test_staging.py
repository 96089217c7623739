"""Categories at their cut-offs, borderline results, and every table of the package against its facts by hand."""

from __future__ import annotations

import pytest

from medseg.clinical.staging import stage_lesions
from medseg.core.errors import UsageError
from medseg.core.measurements import Caliper, Measurement
from medseg.workflows.stage import known_tables, read_tables


def caliper(length_mm, uncertainty_mm):
    return Caliper(length_mm=length_mm, uncertainty_mm=uncertainty_mm, ends_mm=((0, 0, 0), (length_mm, 0, 0)))


def lesion(long_mm, *, spread_mm=0.0, short_mm=None, number=1, feret_mm=None, volume_mm3=1.0, **changes):
    return Measurement(
        id=f"tumour-{number}",
        label="tumour",
        kind="lesion",
        volume_ml=volume_mm3 / 1000,
        volume_uncertainty_ml=changes.pop("volume_spread_mm3", 0.0) / 1000,
        centre_mm=(0, 0, 0),
        long_axis=caliper(long_mm, spread_mm),
        short_axis=caliper(long_mm if short_mm is None else short_mm, spread_mm),
        feret=caliper(long_mm if feret_mm is None else feret_mm, spread_mm),
        **changes,
    )


def staged(name, *lesions, **given):
    (table,) = read_tables([name])
    return stage_lesions(lesions, table, given=given)


def category(name, *lesions, **given):
    return staged(name, *lesions, **given)[0].category


@pytest.mark.parametrize("name", sorted(known_tables()))
def test_every_table_is_complete(name):
    (table,) = read_tables([name])
    assert table.id == name
    assert "only" in table.component
    assert all(len(text) > 20 for text in (table.source, table.scope, table.licence))
    assert "not judged" in table.scope or "not seen" in table.scope
    assert len(table.edition) > 3


def test_the_promised_tables_are_there():
    assert set(known_tables()) == {
        "lung_tnm9",
        "kidney_tnm8",
        "breast_tnm8",
        "liver_hcc_tnm8",
        "lung_rads_2022",
        "lung_rads_2022_volume",
    }


@pytest.mark.parametrize(
    ("name", "cut_offs", "categories"),
    [
        ("lung_tnm9", (10, 20, 30, 40, 50, 70), "T1a T1b T1c T2a T2b T3 T4"),
        ("kidney_tnm8", (40, 70, 100), "T1a T1b T2a T2b"),
        ("breast_tnm8", (1, 5, 10, 20, 50), "T1mi T1a T1b T1c T2 T3"),
    ],
)
def test_size_bins_are_closed_on_the_right(name, cut_offs, categories):
    names = categories.split()
    for cut_off, here, beyond in zip(cut_offs, names[:-1], names[1:], strict=True):
        assert category(name, lesion(cut_off)) == here
        assert category(name, lesion(cut_off + 1e-9)) == here  # rounding of the computer
        assert category(name, lesion(cut_off + 0.1)) == beyond
        assert category(name, lesion(cut_off - 0.1)) == here
    assert category(name, lesion(10_000)) == names[-1]


def test_thirty_and_a_bit():
    assert category("lung_tnm9", lesion(30.0)) == "T1c"
    assert category("lung_tnm9", lesion(30.1)) == "T2a"


def test_a_result_carries_all_that_led_to_it():
    (result,) = staged("lung_tnm9", lesion(28.3, spread_mm=0.9))
    assert result.rule == "lung_tnm9.size"
    assert result.measure == "long_axis_mm"
    assert [(one.name, one.value, one.uncertainty, one.origin) for one in result.inputs] == [
        ("long_axis_mm", 28.3, 0.9, "measured")
    ]
    assert [(one.category, one.above, one.up_to) for one in result.cut_offs][2:4] == [("T1c", 20, 30), ("T2a", 30, 40)]
    assert result.cut_offs[0].above is result.cut_offs[-1].up_to is None
    assert result.cut_offs[0].closed == "right"
    assert "9th edition" in result.edition
    assert "Van Schil" in result.source
    assert result.component == "size component only"
    assert result.borderline == ()
    assert result.statement == "tumour-1: T1c (Lung cancer, T by size; size component only); long axis 28.3 ± 0.9 mm"


@pytest.mark.parametrize(
    ("length", "spread", "reached"),
    [
        (29.0, 0.9, ()),
        (29.0, 1.0, ()),  # 30.0 is still T1c
        (29.0, 1.1, ("T1c", "T2a")),
        (30.5, 0.4, ()),
        (30.5, 0.5, ("T1c", "T2a")),
        (20.0, 12.0, ("T1a", "T1b", "T1c", "T2a")),
        (1.0, 5.0, ()),
    ],
)
def test_borderline_when_the_uncertainty_reaches_across(length, spread, reached):
    (result,) = staged("lung_tnm9", lesion(length, spread_mm=spread))
    assert result.borderline == reached
    assert ("borderline" in result.statement) == bool(reached)


def test_the_largest_lesion_decides_and_another_plane_is_remarked():
    (result,) = staged("kidney_tnm8", lesion(12), lesion(39, number=2, feret_mm=44))
    assert result.lesions == ("tumour-2",)
    assert result.category == "T1a"
    assert result.remark == "longest distance in space 44.0 mm would be T1b"


def test_a_lesion_that_is_cut_off_says_so():
    (result,) = staged("kidney_tnm8", lesion(12, is_cut_off=True))
    assert "true size is larger" in result.statement


@pytest.mark.parametrize(
    ("lesions", "vessels", "extension", "expected"),
    [
        ([20], "no", "no", "T1a"),
        ([20], "minor", "no", "T1a"),
        ([20.1], "no", "no", "T1b"),
        ([20.1], "minor", "no", "T2"),
        ([10, 50], "no", "no", "T2"),
        ([10, 50.1], "minor", "no", "T3"),
        ([10], "major", "no", "T4"),
        ([10], "no", "yes", "T4"),
    ],
)
def test_liver_by_size_count_and_what_is_told(lesions, vessels, extension, expected):
    found = [lesion(length, number=number) for number, length in enumerate(lesions, start=1)]
    assert category("liver_hcc_tnm8", *found, vascular_invasion=vessels, extension=extension) == expected


def test_missing_answers_are_named():
    (result,) = staged("liver_hcc_tnm8", lesion(20), extension="no")
    assert result.category is None
    assert [(one.name, one.answers) for one in result.missing] == [("vascular_invasion", ("no", "minor", "major"))]
    assert "vascular_invasion (no, minor, major): does a tumour grow into vessels?" in result.statement
    (result,) = staged("lung_rads_2022", lesion(7), nodule_type="part_solid", timing="new")
    assert [one.name for one in result.missing] == ["solid_component_mm"]


@pytest.mark.parametrize(
    ("kind", "timing", "size", "solid", "expected"),
    [
        ("solid", "baseline", 5.9, None, "2"),
        ("solid", "baseline", 6.0, None, "3"),
        ("solid", "baseline", 5.96, None, "3"),  # to one decimal: 6.0
        ("solid", "baseline", 7.9, None, "3"),
        ("solid", "baseline", 8.0, None, "4A"),
        ("solid", "baseline", 14.9, None, "4A"),
        ("solid", "baseline", 15.0, None, "4B"),
        ("solid", "new", 3.9, None, "2"),
        ("solid", "new", 4.0, None, "3"),
        ("solid", "new", 6.0, None, "4A"),
        ("solid", "new", 8.0, None, "4B"),
        ("solid", "growing", 7.9, None, "4A"),
        ("solid", "growing", 8.0, None, "4B"),
        ("part_solid", "baseline", 5.9, 3, "2"),
        ("part_solid", "baseline", 5.96, 3, "3"),
        ("part_solid", "baseline", 6.0, 5.9, "3"),
        ("part_solid", "baseline", 9.0, 6, "4A"),
        ("part_solid", "baseline", 9.0, 8, "4B"),
        ("part_solid", "new", 5.9, 3, "3"),
        ("part_solid", "new", 6.0, 3.9, "4A"),
        ("part_solid", "growing", 6.0, 4, "4B"),
        ("non_solid", "baseline", 29.9, None, "2"),
        ("non_solid", "baseline", 30.0, None, "3"),
        ("non_solid", "growing", 29.9, None, "2"),
        ("non_solid", "growing", 30.0, None, None),
    ],
)
def test_lung_rads_by_diameter(kind, timing, size, solid, expected):
    given = {"nodule_type": kind, "timing": timing} | ({} if solid is None else {"solid_component_mm": str(solid)})
    assert category("lung_rads_2022", lesion(size + 1, short_mm=size - 1), **given) == expected


@pytest.mark.parametrize(
    ("timing", "volume", "expected"),
    [
        ("baseline", 112, "2"),
        ("baseline", 112.6, "3"),  # to the whole cubic millimetre
        ("baseline", 113, "3"),
        ("baseline", 268, "4A"),
        ("baseline", 1767, "4B"),
        ("new", 33, "2"),
        ("new", 34, "3"),
        ("growing", 267, "4A"),
        ("growing", 268, "4B"),
    ],
)
def test_lung_rads_by_volume(timing, volume, expected):
    found = lesion(5, volume_mm3=volume)
    assert category("lung_rads_2022_volume", found, nodule_type="solid", timing=timing) == expected


@pytest.mark.parametrize(
    ("kind", "timing", "volume", "solid", "expected"),
    [
        ("part_solid", "baseline", 112, 50, "2"),
        ("part_solid", "baseline", 113, 112, "3"),
        ("part_solid", "baseline", 500, 113, "4A"),
        ("part_solid", "baseline", 500, 268, "4B"),
        ("part_solid", "new", 112, 50, "3"),
        ("part_solid", "new", 113, 33, "4A"),
        ("part_solid", "growing", 113, 34, "4B"),
        ("non_solid", "baseline", 14136, None, "2"),
        ("non_solid", "new", 14137, None, "3"),
        ("non_solid", "growing", 14137, None, None),
    ],
)
def test_lung_rads_by_volume_of_nodules_that_are_not_solid(kind, timing, volume, solid, expected):
    given = {"nodule_type": kind, "timing": timing} | ({} if solid is None else {"solid_component_mm3": str(solid)})
    assert category("lung_rads_2022_volume", lesion(9, volume_mm3=volume), **given) == expected


@pytest.mark.parametrize(
    ("name", "found", "given", "reached"),
    [
        ("kidney_tnm8", lesion(70.5, spread_mm=1), {}, ("T1b", "T2a")),
        ("breast_tnm8", lesion(19.5, spread_mm=1), {}, ("T1c", "T2")),
        ("liver_hcc_tnm8", lesion(20, spread_mm=1), {"vascular_invasion": "no", "extension": "no"}, ("T1a", "T1b")),
        ("liver_hcc_tnm8", lesion(20, spread_mm=1), {"vascular_invasion": "major", "extension": "no"}, ()),
        # the cut-off of a condition, not of a bin
        (
            "lung_rads_2022",
            lesion(6, spread_mm=0.5),
            {"nodule_type": "part_solid", "timing": "new", "solid_component_mm": "2"},
            ("3", "4A"),
        ),
        (
            "lung_rads_2022_volume",
            lesion(6, volume_mm3=110, volume_spread_mm3=5),
            {"nodule_type": "solid", "timing": "baseline"},
            ("2", "3"),
        ),
    ],
)
def test_every_table_knows_its_borderlines(name, found, given, reached):
    assert staged(name, found, **given)[0].borderline == reached


def test_the_mean_diameter_has_the_mean_uncertainty():
    (result,) = staged("lung_rads_2022", lesion(8, short_mm=7, spread_mm=0.5), nodule_type="solid", timing="baseline")
    assert result.category == "3"
    assert result.borderline == ("3", "4A")
    assert {(one.name, one.origin) for one in result.inputs} == {
        ("mean_diameter_mm", "measured"),
        ("nodule_type", "given"),
        ("timing", "given"),
    }
    assert result.cut_offs[0].closed == "left"


def test_every_nodule_has_a_category_of_its_own():
    results = staged("lung_rads_2022", lesion(5), lesion(9, number=2), nodule_type="solid", timing="baseline")
    assert [(one.lesions, one.category) for one in results] == [(("tumour-1",), "2"), (("tumour-2",), "4A")]


def test_without_a_lesion_there_is_no_category():
    (result,) = staged("lung_tnm9")
    assert result.category is None
    assert "no lesion was measured" in result.statement


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nodule_typ": "solid"}, "did you mean 'nodule_type'"),
        ({"nodule_type": "liquid"}, "solid, part_solid, non_solid"),
        ({"solid_component_mm": "wide"}, "must be a number"),
        ({"solid_component_mm": "-1"}, "must be a number"),
        ({"solid_component_mm": "nan"}, "must be a number"),
    ],
)
def test_answers_that_cannot_be(given, message):
    with pytest.raises(UsageError, match=f"E-STAGE-INPUT.*{message}"):
        staged("lung_rads_2022", lesion(5), **given)
