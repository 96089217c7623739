"""What `--map` means, and what it refuses."""

import numpy as np
import pytest

from medseg.core.errors import InputError, UsageError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap
from medseg.workflows.label_map import parse_label_map

LABELS = {"liver": 1, "lung": 3}


def applied(values, entries, labels=LABELS, **choices):
    array = np.array(values, dtype=np.uint16).reshape(1, 1, -1)
    mask = LabelMap(array, Geometry.from_parts(array.shape))
    return parse_label_map(entries, labels, **choices).applied(mask).array.ravel().tolist()


def test_without_a_map_values_are_what_they_are():
    assert applied([0, 1, 3], []) == [0, 1, 3]


@pytest.mark.parametrize("entry", ["liver=5", "liver=1:5"])
def test_liver_is_5_in_the_predictions_and_1_in_the_references(entry):
    assert applied([0, 5, 3, 5], [entry]) == [0, 1, 3, 1]


def test_several_values_several_entries_and_the_rest():
    assert applied([10, 11, 5, 77, 900, 0], ["lung=3:10+11, liver=5", "background=*"]) == [3, 3, 1, 0, 0, 0]
    assert applied([5, 1, 3], ["liver=5,background=1"]) == [1, 0, 3]


def test_labels_may_trade_their_values():
    assert applied([1, 3], ["liver=3,lung=1"]) == [3, 1]


def test_a_predicted_ignore_value_is_background():
    assert applied([1, 255], [], ignore_value=255) == [1, 0]


def test_without_known_labels_the_map_names_them():
    relabelling = parse_label_map(["liver=1:5", "lung=2:6+7"], {})
    assert relabelling.labels == {"liver": 1, "lung": 2}
    assert relabelling.values == {5: 1, 6: 2, 7: 2}


def test_a_value_that_nobody_claims_is_refused():
    with pytest.raises(InputError, match="no label claims: 1, 8; known: 5 liver, 3 lung") as caught:
        applied([5, 1, 8], ["liver=5"])
    assert caught.value.code == "E-LABEL-UNKNOWN"
    assert "background=*" in caught.value.remedy


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("liver", "cannot be read"),
        ("liver=five", "cannot be read"),
        ("liver=*", "cannot be read"),
        ("livre=5", "did you mean 'liver'"),
        ("livre=1:5", "did you mean 'liver'"),
        ("liver=2:5", "liver is 1 in the references, not 2"),
        ("liver=3", "both liver and lung"),
        ("liver=0", "values of labels are 1 to 65535"),
        ("background=1:5", "background is 0"),
        ("liver=5,lung=5", "both liver and lung"),
    ],
)
def test_refusals(entry, words):
    with pytest.raises(UsageError, match=words.replace("*", "[*]")) as caught:
        parse_label_map([entry], LABELS)
    assert caught.value.code == "E-LABEL-MAP"


def test_two_new_labels_cannot_share_a_value_of_the_references():
    with pytest.raises(UsageError, match="no free value"):
        parse_label_map(["liver=1:5,lung=1:6"], {})
    with pytest.raises(UsageError, match="unknown label 'liver'"):
        parse_label_map(["liver=5"], {})
