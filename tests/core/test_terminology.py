"""Labels find their codes by their words; what is unknown is refused or gets a private code, never a wrong one."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import yaml
from pydicom.sr._concepts_dict import concepts

from medseg.core.errors import UsageError
from medseg.core.terminology import Terminology, private_code, tracking_uid, words_of

TABLE = Path(__file__).parents[2] / "configs" / "terminology.yaml"
TOTALSEGMENTATOR = """
spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left
lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right
esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left
kidney_cyst_right sacrum vertebrae_S1 vertebrae_L5 vertebrae_T12 vertebrae_C1 heart aorta pulmonary_vein
brachiocephalic_trunk subclavian_artery_right common_carotid_artery_left brachiocephalic_vein_left
atrial_appendage_left superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein iliac_artery_left
iliac_vena_left humerus_left scapula_right clavicula_left femur_left hip_left spinal_cord gluteus_maximus_left
gluteus_medius_left gluteus_minimus_left autochthon_left iliopsoas_left brain skull rib_left_1 rib_right_12
sternum costal_cartilages
"""


@pytest.fixture(scope="module")
def terms() -> Terminology:
    return Terminology.parse(yaml.safe_load(TABLE.read_text()))


def test_the_codes_of_the_table_are_those_of_the_standard(terms):
    """pydicom's own dictionary of SNOMED concepts, generated from DICOM part 16, is the oracle."""
    known: dict[str, set[str]] = {}
    for entries in concepts["SCT"].values():
        for value, (meaning, _) in entries.items():
            known.setdefault(value, set()).add(meaning.lower())
    not_in_dicom = {"206007", "78333006", "75297007", "68455001"}  # muscles that part 16 does not name
    synonyms = {"89837001": "urinary bladder", "113343008": "organ", "49755003": "morphologically altered structure"}
    for name, term in terms.terms.items():
        for code in (term.type, term.category, term.modifier):
            if code is not None and code.value not in not_in_dicom:
                meanings = known[code.value] | {synonyms.get(code.value)}
                assert code.scheme == "SCT"
                assert code.meaning.lower() in meanings, name


@pytest.mark.parametrize("label", TOTALSEGMENTATOR.split())
def test_a_widely_used_label_set_is_known(terms, label):
    side = next((side for side in ("left", "right") if side in label), None)
    term = terms.term(label)
    modifier = term.region_modifier if term.region else term.modifier
    assert (modifier.meaning.lower() if modifier else None) == side


@pytest.mark.parametrize(
    ("label", "value", "modifier"),
    [
        ("Left_Parotid", "45289007", "7771000"),
        ("parotid R", "45289007", "24028007"),
        ("RKidney", "64033007", "24028007"),
        ("Brain-Stem", "119238007", None),
        ("Lungs", "39607008", None),
        ("hippocampus anterior", "5366008", "255549009"),
        ("Oesophagus", "32849002", None),
        ("vertebra L1", "66794005", None),
    ],
)
def test_a_label_is_found_by_its_words(terms, label, value, modifier):
    term = terms.term(label)
    assert term.type.value == value
    assert (term.modifier.value if term.modifier else None) == modifier


def test_a_lesion_of_an_organ_is_put_together(terms):
    term = terms.term("left kidney tumour")
    assert (term.type.value, term.region.value, term.region_modifier.value) == ("108369006", "64033007", "7771000")
    assert term.is_lesion
    assert not terms.term("left kidney").is_lesion
    assert terms.term("lesion 3").type.value == "52988006"


def test_an_unknown_label_is_refused_with_its_neighbours(terms):
    with pytest.raises(UsageError, match=r"near are .*pancreas") as caught:
        terms.term("pancras")
    assert caught.value.code == "E-CODE"
    assert "--terminology" in caught.value.remedy
    with pytest.raises(UsageError):
        terms.term("anterior")  # of what?


def test_a_private_code_is_short_and_always_the_same(terms):
    term = terms.term("tooth (carious, upper jaw)", may_be_private=True)
    assert term.type.scheme == "99MEDSEG"
    assert len(term.type.value) <= 16
    assert term.type == private_code("tooth (carious, upper jaw)")
    assert private_code("歯").value != private_code("顎").value


def test_ones_own_table_comes_first(terms):
    mine = Terminology.parse({"terms": {"livers": {"type": "99X 1 My liver", "colour": [1, 2, 3]}}})
    assert mine.over(terms).term("liver").type.meaning == "My liver"
    assert mine.over(terms).term("spleen").type.value == "78961009"


def test_a_table_with_a_fault_names_it():
    with pytest.raises(UsageError, match="scheme, code and meaning"):
        Terminology.parse({"terms": {"x": {"type": "Liver", "colour": [1, 2, 3]}}})
    with pytest.raises(UsageError, match="0 to 255"):
        Terminology.parse({"terms": {"x": {"type": "SCT 1 Liver", "colour": [1, 2, 300]}}})


def test_tracking_uids_are_uuids_that_do_not_change():
    first = tracking_uid("1.2.3", "lesion-1")
    assert first == tracking_uid("1.2.3", "lesion-1") == "2.25." + first[5:]
    assert first != tracking_uid("1.2.3", "lesion-2") != tracking_uid("1.2.4", "lesion-2")
    parsed = uuid.UUID(int=int(first[5:]))
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
    assert len(first) <= 64


def test_words_keep_numbers_on_their_letters():
    assert words_of("Vertebrae_L5") == (("l5", "vertebra"), None)
    assert words_of("kidney-left 2") == (("2", "kidney"), "left")
