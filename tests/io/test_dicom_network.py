"""The two ends of the wire against one another: what is refused, and with which words."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest

from medseg.core.errors import InputError, UsageError
from medseg.core.listening import ListenSettings, Peer
from medseg.io.dicom_network import Receiver, send_objects

pytest.importorskip("pynetdicom")


@pytest.fixture
def receiver():
    """Starts receivers that keep what they get in memory."""
    opened = []

    def start(**settings):
        stored = []
        door = ListenSettings(port=0, timeout_s=5, **settings)
        one = Receiver(door, lambda arrival: stored.append((arrival.series_uid, arrival.head, bytes(arrival.body))))
        opened.append(one)
        return Peer("MEDSEG", "127.0.0.1", one.open()), stored

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def slices(series):
    return sorted(series.write("s", (8, 6, 2), np.diag([-2.0, -2.0, 3.0, 1.0])).iterdir())


def sent(paths, peer, **settings):
    return list(send_objects(paths, peer, ListenSettings(**settings)))


def refused(paths, peer):
    with pytest.raises(InputError) as caught:
        sent(paths, peer)
    return caught.value


def test_what_is_sent_arrives_without_a_preamble(receiver, slices, series):
    bytes_before = slices[0].read_bytes()
    slices[0].write_bytes(b"MZ" + bytes_before[2:])
    peer, stored = receiver()
    assert sent(slices, peer) == slices
    assert [series_uid for series_uid, _, _ in stored] == [series.identity["SeriesInstanceUID"]] * 2
    assert all(head[:132] == b"\0" * 128 + b"DICM" for _, head, _ in stored)


def test_an_object_without_its_uids_is_not_stored(receiver, series):
    """The provider's E-PACS-OBJECT is the sender's E-PACS-STORE."""
    bare = series.write("b", (8, 6, 1), np.eye(4), change=lambda data: delattr(data, "SeriesInstanceUID"))
    peer, stored = receiver()
    error = refused(list(bare.iterdir()), peer)
    assert (error.code, stored) == ("E-PACS-STORE", [])
    assert "0xC000" in error.message


def test_strangers_are_rejected(receiver, slices):
    peer, stored = receiver(allow=("CT1",))
    assert refused(slices, peer).code == "E-PACS-REJECTED"
    assert sent(slices[:1], peer, ae_title="CT1") == slices[:1]
    assert len(stored) == 1


def test_another_name_than_ours_is_rejected(receiver, slices):
    peer, _ = receiver()
    assert refused(slices, Peer("OTHER", peer.host, peer.port)).code == "E-PACS-REJECTED"


def test_an_object_beyond_the_limit_ends_its_association(receiver, slices):
    peer, stored = receiver(max_object_mib=0.0005)
    assert refused(slices, peer).code in {"E-PACS-STORE", "E-PACS-DESTINATION"}
    assert stored == []


def test_a_claim_of_four_gigabytes_is_cut_off(receiver):
    peer, _ = receiver()
    with socket.create_connection((peer.host, peer.port), timeout=4) as caller:
        caller.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF) + b"\0" * 64)
        try:
            ended = caller.recv(1024)
        except ConnectionResetError:
            ended = b""
    assert ended == b""


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)  # pynetdicom
def test_nobody_there_and_somebody_in_the_way(slices):
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
        assert refused(slices, Peer("ARCHIVE", "127.0.0.1", port)).code == "E-PACS-DESTINATION"
        door.listen()
        with pytest.raises(UsageError) as caught:
            Receiver(ListenSettings(port=port), lambda _: None).open()
        assert caught.value.code == "E-PACS-PORT"
