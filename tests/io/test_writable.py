from __future__ import annotations

import pytest

from medseg.core.errors import InputError
from medseg.io.files import require_writable


def test_a_folder_is_made_and_left_empty(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError) as caught:
        require_writable(tmp_path / "file")
    assert caught.value.code == "E-NOT-WRITABLE"
