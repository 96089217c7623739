"""Who may call, and what a listener refuses to be."""

from __future__ import annotations

import pytest

from medseg.core.errors import UsageError
from medseg.core.listening import ListenSettings, Peer, parse_peer


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bind": "0.0.0.0"}, "allow_remote"),  # noqa: S104
        ({"bind": "0.0.0.0", "allow_remote": True}, "allow"),  # noqa: S104
        ({"bind": "0.0.0.0", "allow": ["CT1"]}, "allow_remote"),  # noqa: S104
        ({"bind": "somewhere"}, "bind"),
        ({"ae_title": "A\\B"}, "AE title"),
        ({"ae_title": "   "}, "AE title"),
        ({"ae_title": "X" * 17}, "AE title"),
        ({"send": "PACS"}, "AE@host:port"),
        ({"send": "PACS@host:70000"}, "AE@host:port"),
        ({"allow": ["CT1@nowhere"]}, "allow"),
        ({"allow": ["@"]}, "allow"),
    ],
)
def test_what_is_refused(given, words):
    with pytest.raises(UsageError, match=words) as caught:
        ListenSettings.parse(given)
    assert caught.value.code == "E-CONFIG"


def test_who_is_admitted():
    settings = ListenSettings.parse({"allow": "CT1@10.0.0.7, @10.1.0.0/16,PACS"})
    assert settings.admits("CT1 ", "10.0.0.7")
    assert settings.admits("CT1", "::ffff:10.0.0.7")
    assert not settings.admits("CT1", "10.0.0.8")
    assert settings.admits("anybody", "10.1.2.3")
    assert settings.admits("PACS", "192.0.2.1")
    assert not settings.admits("MR", "192.0.2.1")
    assert ListenSettings().admits("MR", "127.0.0.1")
    assert ListenSettings(bind="localhost").bind == "127.0.0.1"
    assert ListenSettings(bind="192.0.2.5", allow_remote=True, allow=("PACS",)).bind == "192.0.2.5"


def test_a_peer():
    assert parse_peer("PACS@archive.example:104") == Peer("PACS", "archive.example", 104)
    assert parse_peer("PACS@[::1]:104").host == "::1"
