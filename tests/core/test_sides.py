from __future__ import annotations

import pytest

from medseg.core.sides import left_right_pairs, named_side


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("kidney_left", "left"),
        ("Right Lung", "right"),
        ("Kidney-R", "right"),
        ("lung lt", "left"),
        ("ctx-lh-insula", "left"),
        ("rib_left_1", "left"),
        ("left2", "left"),
        ("vertebrae_L1", None),
        ("T1_R2", None),
        ("liver", None),
        ("cleft", None),
        ("left and right atrium", None),
        ("", None),
        ("ren dexter", "right"),
        ("KidneyL", "left"),
        ("segment 4r", None),
        ("leftover", None),
    ],
)
def test_the_side_in_a_name(name, side):
    assert named_side(name) == side


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_kidney", "right_kidney"),
        ("kidney_left", "kidney_right"),
        ("Kidney-L", "Kidney-R"),
        ("lung lt", "lung rt"),
        ("Left Lung", "right lung"),
        ("femur.l", "femur.r"),
        ("ctx-lh-insula", "ctx-rh-insula"),
        ("rib_left_1", "rib_right_1"),
        ("nerve of L1, left", "nerve of L1, right"),
        ("L", "R"),
        ("left_x", "right_x"),
        ("hippocampus_l", "hippocampus_r"),
        ("Left-Kidney", "Right-Kidney"),
        ("lh.pial", "rh.pial"),
        ("leftKidney", "rightKidney"),
        ("kidneyLeft", "kidneyRight"),
        ("KidneyL", "KidneyR"),
        ("LKidney", "RKidney"),
        ("lKidney", "rKidney"),
        ("LEFT_KIDNEY", "RIGHT_KIDNEY"),
        ("rib_l1", "rib_r1"),
        ("ren sinister", "ren dexter"),
        ("Niere links", "Niere rechts"),
        ("rein gauche", "rein droit"),
        ("Parotid_Lt", "Parotid_Rt"),
    ],
)
def test_pairs_in_many_spellings(left, right):
    assert left_right_pairs([right, "other", left]) == ((left, right),)


@pytest.mark.parametrize(
    "names",
    [
        ("liver", "river"),
        ("left_kidney", "kidney"),
        ("left_kidney", "right_lung"),
        ("vertebra_L1", "vertebra_R2"),
        ("leftover", "rightover"),
        ("cleft", "cright"),
        ("tumour",),
        ("leftover", "right_kidney"),
        ("leftleg", "rightleg"),
        ("lesion", "resion"),
        ("left_left_x", "right_right_x"),
        ("lv", "rv"),
        ("left_kidney", "left_lung"),
        (),
    ],
)
def test_what_is_no_pair(names):
    assert left_right_pairs(names) == ()


def test_several_pairs():
    names = ("kidney_l", "kidney_r", "lung_left", "spleen", "lung_right")
    assert left_right_pairs(names) == (("kidney_l", "kidney_r"), ("lung_left", "lung_right"))
