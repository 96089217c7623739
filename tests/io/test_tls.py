"""Associations under TLS, between our two ends and with files that are none."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time

import numpy as np
import pytest

from medseg.core.errors import InputError, UsageError
from medseg.core.listening import ListenSettings, Peer
from medseg.io.dicom_network import Receiver, send_objects
from medseg.io.tls import receiving, require_tls

pytest.importorskip("pynetdicom")
pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl, which makes certificates, is missing")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Pairs that signed themselves: of us, of a caller, of a host of another name; a key with a password."""
    place = tmp_path_factory.mktemp("certificates")
    for name, host in (("us", "IP:127.0.0.1"), ("caller", "DNS:ct1"), ("elsewhere", "DNS:archive.example")):
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        words += ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}"]
        subprocess.run([*words, "-addext", f"subjectAltName={host}"], cwd=place, check=True, capture_output=True)
    words = ["openssl", "ec", "-in", "us.key", "-out", "locked.key", "-aes128", "-passout", "pass:word"]
    subprocess.run(words, cwd=place, check=True, capture_output=True)
    (place / "both.pem").write_text((place / "us.pem").read_text() + (place / "us.key").read_text())
    (place / "words.pem").write_text("no certificate")
    return place


@pytest.fixture
def receiver():
    opened = []

    def start(**settings):
        stored = []
        one = Receiver(ListenSettings(port=0, timeout_s=5, **settings), stored.append)
        opened.append(one)
        return Peer("MEDSEG", "127.0.0.1", one.open()), stored

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def slices(series):
    return sorted(series.write("s", (8, 6, 2), np.diag([-2.0, -2.0, 3.0, 1.0])).iterdir())


def sent(slices, peer, **settings):
    return list(send_objects(slices, peer, ListenSettings(send=str(peer), timeout_s=5, **settings)))


def unreached(slices, peer, **settings):
    with pytest.raises(InputError) as caught:
        sent(slices, peer, **settings)
    return caught.value.code == "E-PACS-DESTINATION"


def pair(place, name, what="tls"):
    return {f"{what}_cert": place / f"{name}.pem", f"{what}_key": place / f"{name}.key"}


def test_only_tls_is_spoken(receiver, slices, certificates):
    peer, stored = receiver(**pair(certificates, "us"))
    assert unreached(slices, peer)
    assert sent(slices, peer, send_tls=True, tls_ca=certificates / "us.pem") == slices
    assert len(stored) == 2


def test_one_file_may_hold_certificate_and_key(certificates):
    context = receiving(ListenSettings(tls_cert=certificates / "both.pem"))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE


def test_callers_must_show_a_certificate_that_is_trusted(receiver, slices, certificates):
    peer, stored = receiver(**pair(certificates, "us"), tls_ca=certificates / "caller.pem")
    ours = {"send_tls": True, "tls_ca": certificates / "us.pem"}
    assert unreached(slices, peer, **ours)
    assert unreached(slices, peer, **ours, **pair(certificates, "elsewhere"))
    assert stored == []
    assert sent(slices, peer, **ours, **pair(certificates, "caller")) == slices


def test_the_destination_must_be_who_it_is_taken_for(receiver, slices, certificates):
    peer, stored = receiver(**pair(certificates, "elsewhere"))
    assert unreached(slices, peer, send_tls=True, tls_ca=certificates / "us.pem"), "nobody we trust"
    assert unreached(slices, peer, send_tls=True), "nobody this machine trusts"
    theirs = {"send_tls": True, "tls_ca": certificates / "elsewhere.pem"}
    assert unreached(slices, peer, **theirs), "a host of another name"
    assert stored == []
    assert sent(slices, peer, **theirs, tls_check_host=False) == slices


def test_one_who_says_nothing_keeps_nobody_out(receiver, slices, certificates):
    peer, _ = receiver(**pair(certificates, "us"))
    with socket.create_connection((peer.host, peer.port)):
        assert sent(slices, peer, send_tls=True, tls_ca=certificates / "us.pem") == slices


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tls_cert": "missing.pem"}, "cannot be read"),
        ({"tls_cert": "words.pem"}, "no certificate in PEM form"),
        ({"tls_cert": "us.pem"}, "no private key"),
        ({"tls_cert": "us.pem", "tls_key": "missing.key"}, "cannot be read"),
        ({"tls_cert": "us.pem", "tls_key": "words.pem"}, "no private key"),
        ({"tls_cert": "us.pem", "tls_key": "locked.key"}, "without a password"),
        ({"tls_cert": "us.pem", "tls_key": "caller.key"}, "not the key of .*us.pem"),
        ({"tls_cert": "both.pem", "tls_ca": "words.pem"}, "no certificate in PEM form"),
        ({"send": "A@b:1", "send_tls": True, "tls_ca": "missing.pem"}, "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(certificates, given, words):
    place = {name: certificates / value if name.startswith("tls") else value for name, value in given.items()}
    with pytest.raises(UsageError, match=words) as caught:
        require_tls(ListenSettings(**place))
    assert caught.value.code == "E-PACS-TLS"
    last = list(given.values())[-1]
    assert caught.value.file == certificates / last


@pytest.fixture(scope="module")
def dcmtk(dcmtk):
    """DCMTK's programs, where they speak TLS."""
    told = subprocess.run([dcmtk["storescu"], "--help"], check=False, capture_output=True, text=True)
    if "--enable-tls" not in told.stdout + told.stderr:
        pytest.skip("DCMTK is installed without TLS")
    return dcmtk


def test_dcmtk_sends_by_tls(receiver, slices, certificates, dcmtk):
    peer, stored = receiver(**pair(certificates, "us"), tls_ca=certificates / "caller.pem")

    def store(*tls):
        words = [dcmtk["storescu"], "-aec", peer.ae_title, *map(str, tls), peer.host, str(peer.port), *map(str, slices)]
        return subprocess.run(words, check=False, capture_output=True, timeout=30).returncode

    ours = ("+cf", certificates / "us.pem")
    assert store() != 0, "without TLS"
    assert store("+tls", certificates / "elsewhere.key", certificates / "elsewhere.pem", *ours) != 0, "a stranger"
    assert store("+tls", certificates / "caller.key", certificates / "caller.pem") != 0, "it does not know us"
    assert stored == []
    assert store("+tls", certificates / "caller.key", certificates / "caller.pem", *ours) == 0
    assert len(stored) == len(slices)


def test_dcmtk_receives_by_tls(slices, certificates, dcmtk, tmp_path):
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    theirs = ("+tls", certificates / "us.key", certificates / "us.pem", "+cf", certificates / "caller.pem")
    words = [dcmtk["storescp"], "-od", tmp_path, "-aet", "ARCHIVE", *theirs, port]
    archive = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        peer = Peer("ARCHIVE", "127.0.0.1", port)
        trust = {"send_tls": True, "tls_ca": certificates / "us.pem"}
        confirmed = until_sent(slices, peer, **trust, **pair(certificates, "caller"))
        assert confirmed == slices
        assert unreached(slices, peer, **trust), "we show no certificate"
        assert unreached(slices, peer), "without TLS"
    finally:
        archive.kill()
        archive.wait()
    assert len(list(tmp_path.glob("CT.*"))) == len(slices)


def until_sent(slices, peer, **settings):
    """The archive needs a moment before it listens."""
    end = time.monotonic() + 30
    while True:
        try:
            return sent(slices, peer, **settings)
        except InputError:
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.1)
