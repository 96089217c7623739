from __future__ import annotations

import pytest

from medseg.core.document import Document
from medseg.core.errors import InputError, UsageError
from medseg.io.documents import read_document


class Leaf(Document):
    threshold: float = 0.5


def test_round_trip(tmp_path):
    path = tmp_path / "leaf.json"
    path.write_text(Leaf(threshold=float("-inf")).to_json(), encoding="utf-8")
    assert read_document(path, Leaf) == Leaf(threshold=float("-inf"))


@pytest.mark.parametrize("data", [b"", b"{", b"{'threshold': 1}", b"\xff\xfe\x00binary", b"\x80" * 20])
def test_what_is_no_json_is_refused(tmp_path, data):
    path = tmp_path / "leaf.json"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_document(path, Leaf)
    assert (caught.value.code, caught.value.file, caught.value.remedy[:13]) == ("E-JSON", path, "Mend the file")


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"treshold": 1}', r"did you mean 'threshold'\?"), ("[]", "Leaf: "), ('{"threshold": "x"}', "threshold: ")],
)
def test_a_wrong_key_or_value_is_refused_with_the_file(tmp_path, text, words):
    path = tmp_path / "leaf.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        read_document(path, Leaf, remedy="Plant it anew.")
    assert (caught.value.code, caught.value.file, caught.value.remedy) == ("E-CONFIG", path, "Plant it anew.")


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_document(tmp_path / "leaf.json", Leaf)
