"""DICOM over the network: objects that arrive by C-STORE, and objects that are sent. Only here is pynetdicom known.

Nothing is logged of an association or an object: what callers write into them is theirs, or the patient's.
"""

from __future__ import annotations

import io
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError, MedsegError, UsageError
from medseg.core.listening import ListenSettings, Peer
from medseg.io.dicom_codecs import DECODABLE
from medseg.io.dicom_headers import parse, read_object
from medseg.io.tls import receiving, sending

_PLAIN = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
_LONGEST_PDU = 1 << 20
_SUCCESS, _FULL, _DUPLICATE, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0x0111, 0xC000
_STATUS_OF = {
    "E-DISK-FULL": _FULL,
    "E-NOT-WRITABLE": _FULL,
    "E-PACS-FULL": _FULL,
    "E-PACS-DUPLICATE": _DUPLICATE,
}
_REJECTED_FOREVER, _BY_THE_USER, _CALLER_UNKNOWN = 1, 1, 3


@dataclass(frozen=True, eq=False)
class Arrival:
    """One object as it came in.

    Attributes:
        association: Tells the associations that are open at one time apart.
        head: Zero preamble, DICM and file meta group, all of our own making.
        body: The data set as it was sent.
    """

    association: int
    head: bytes
    body: memoryview
    study_uid: str
    series_uid: str
    sop_instance_uid: str


class Receiver:
    """A C-STORE and C-ECHO provider on threads of its own.

    Args:
        settings: Address, who may call, limits.
        store: Keeps an object safely before it returns. Raises MedsegError to refuse it.
    """

    def __init__(self, settings: ListenSettings, store: Callable[[Arrival], None]) -> None:
        self._settings = settings
        self._store = store
        self._received: dict[int, int] = {}
        self._most_bytes = settings.max_object_mib * (1 << 20)
        self._server: Any = None

    def open(self) -> int:
        """Listen, and return the port.

        Raises:
            UsageError: `E-EXTRA`, `E-PACS-TLS`, `E-PACS-PORT`.
        """
        context = receiving(self._settings)
        entity = _entity(self._settings.ae_title, self._settings.timeout_s)
        from pynetdicom import AllStoragePresentationContexts, evt
        from pynetdicom.sop_class import Verification

        entity.require_called_aet = True
        entity.maximum_associations = self._settings.max_associations
        entity.add_supported_context(Verification)
        for storage in AllStoragePresentationContexts:
            entity.add_supported_context(storage.abstract_syntax, [*_PLAIN, *DECODABLE])
        handlers = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_DATA_RECV, self._counted),
            (evt.EVT_C_STORE, self._stored),
        ]
        address = (self._settings.bind, self._settings.port)
        try:
            self._server = entity.start_server(
                address, block=False, evt_handlers=handlers, ssl_context=context and _Deferred(context)
            )
        except OSError as error:
            message = f"cannot listen on {self._settings.bind}:{self._settings.port}: {error.strerror}"
            remedy = "Stop what uses this port, or choose another --port or --bind."
            raise UsageError(message, code="E-PACS-PORT", remedy=remedy) from None
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Abort what is open and listen no more."""
        if self._server is not None:
            self._server.ae.shutdown()
            self._server = None

    def associations(self) -> set[int]:
        """Those that are open."""
        return {id(one) for one in self._server.active_associations}

    def _opened(self, event: Any) -> None:
        sock = event.assoc.dul.socket
        if isinstance(sock.socket, ssl.SSLSocket) and not _shook_hands(sock.socket, event.assoc.acse_timeout):
            sock.socket.close()  # pynetdicom leaves it open when the caller is gone
            sock.close()
            return
        receive = sock.recv

        def limited(length: int) -> Any:
            if length > _LONGEST_PDU:
                # pynetdicom takes this for a broken connection and closes it
                message = "longer than any PDU that was agreed on"
                raise OSError(message)
            return receive(length)

        sock.recv = limited

    def _closed(self, event: Any) -> None:
        self._received.pop(id(event.assoc), None)

    def _requested(self, event: Any) -> None:
        caller = event.assoc.requestor
        if not self._settings.admits(caller.primitive.calling_ae_title, caller.address):
            event.assoc.acse.send_reject(_REJECTED_FOREVER, _BY_THE_USER, _CALLER_UNKNOWN)
            event.assoc.kill()

    def _counted(self, event: Any) -> None:
        """End an association whose object grows beyond the limit, while it grows."""
        total = self._received.get(id(event.assoc), 0) + len(event.data)
        self._received[id(event.assoc)] = total
        if total > self._most_bytes:
            event.assoc.abort()

    def _stored(self, event: Any) -> int:
        self._received.pop(id(event.assoc), None)
        # one that came whole before its association could be ended
        if event.request.DataSet.getbuffer().nbytes > self._most_bytes:
            return _FULL
        try:
            self._store(_arrival(event))
        except MedsegError as error:
            return _STATUS_OF.get(error.code, _NOT_UNDERSTOOD)
        return _SUCCESS


class _Deferred:
    """A TLS context whose sockets shake hands later: pynetdicom accepts callers in one thread, which none may hold."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_socket(self, sock: socket.socket, *, server_side: bool) -> ssl.SSLSocket:
        return self._context.wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False)


class _Kept:
    """A TLS context whose sockets are kept, to close: pynetdicom leaves one open whose other end is gone."""

    def __init__(self, context: ssl.SSLContext, sockets: list[socket.socket]) -> None:
        self._context = context
        self._sockets = sockets

    def wrap_socket(self, sock: socket.socket, **how: Any) -> ssl.SSLSocket:
        wrapped = self._context.wrap_socket(sock, **how)
        self._sockets.append(wrapped)
        return wrapped


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _shook_hands(sock: ssl.SSLSocket, timeout_s: float) -> bool:
    sock.settimeout(timeout_s)
    try:
        sock.do_handshake()
        sock.settimeout(None)
    except OSError:  # no TLS, no certificate that is trusted, silence
        return False
    return True


def _arrival(event: Any) -> Arrival:
    from pynetdicom.dsutils import encode_file_meta

    body = event.request.DataSet.getbuffer()
    head = b"\0" * 128 + b"DICM" + encode_file_meta(event.file_meta)
    place = Path("object received")
    header, _ = parse(io.BytesIO(b"".join((head, body))), place, is_whole=False)
    uids = [str(header.get(name) or "") for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    if not all(uids) or uids[2] != str(event.request.AffectedSOPInstanceUID):
        message = "an object must have study, series and instance UIDs, the last as it was announced"
        raise InputError(message, code="E-PACS-OBJECT", remedy="Send it again from an archive that keeps its UIDs.")
    return Arrival(id(event.assoc), head, body, *uids)


def send_objects(paths: Sequence[Path], peer: Peer, settings: ListenSettings) -> Iterator[Path]:
    """Send files in one association, and yield each that the peer has confirmed.

    Raises:
        InputError: `E-PACS-DESTINATION`, `E-PACS-REJECTED` or `E-PACS-STORE`.
        UsageError: `E-PACS-TLS`.
    """
    headers = {path: read_object(path, is_whole=False) for path in paths}
    classes = sorted({str(header.SOPClassUID) for header in headers.values()})
    with _associated(peer, settings, classes) as association:
        for path, header in headers.items():
            try:
                answer = association.send_c_store(path)
            except ValueError:
                message = f"{peer} does not take objects of the class {header.SOPClassUID}"
                remedy = "Let the destination accept SEG and SR."
                raise InputError(message, code="E-PACS-STORE", remedy=remedy) from None
            status = getattr(answer, "Status", None)
            # success, or stored with a remark (PS3.4 B.2.3)
            if status is None or not (status == _SUCCESS or status >> 12 == 0xB):
                found = "no answer" if status is None else f"status 0x{status:04X}"
                message = f"{peer} did not store an object: {found}"
                raise InputError(message, code="E-PACS-STORE", remedy="Look at the destination's log.")
            yield path


@contextmanager
def _associated(peer: Peer, settings: ListenSettings, classes: Sequence[str]) -> Iterator[Any]:
    entity = _entity(settings.ae_title, settings.timeout_s)
    from pynetdicom import evt

    for uid in classes:
        entity.add_requested_context(uid, list(_PLAIN[:2]))
    context = sending(settings)
    sockets: list[socket.socket] = []
    tls = None if context is None else (_Kept(context, sockets), peer.host)
    handlers = [(evt.EVT_CONN_OPEN, lambda event: sockets.append(event.assoc.dul.socket.socket))]
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title, tls_args=tls, evt_handlers=handlers)
    if not association.is_established:
        _close(sockets)
        rejected = association.is_rejected
        unreached = "cannot be reached" if tls is None else "cannot be reached by TLS"
        message = f"{peer} {'rejects the association' if rejected else unreached}"
        code = "E-PACS-REJECTED" if rejected else "E-PACS-DESTINATION"
        remedy = f"Check AE title, host and port, and that {settings.ae_title} is known there."
        if tls is not None:
            remedy += " Its certificate must name the host and come from --tls-ca; it may ask for ours (--tls-cert)."
        raise InputError(message, code=code, remedy=remedy)
    try:
        yield association
        association.release()
    finally:
        if association.is_established:
            association.abort()
        _close(sockets)


def require_pynetdicom() -> None:
    """Refuse early where the extra is missing.

    Raises:
        UsageError: `E-EXTRA`.
    """
    try:
        import pynetdicom
    except ImportError:
        message = "listening on the network needs pynetdicom"
        raise UsageError(message, code="E-EXTRA", remedy="Run: pip install 'medseg[pacs]'") from None
    pynetdicom._config.LOG_HANDLER_LEVEL = "none"
    logger = logging.getLogger("pynetdicom")
    logger.handlers, logger.propagate = [logging.NullHandler()], False


def _entity(ae_title: str, timeout_s: float) -> Any:
    require_pynetdicom()
    from pynetdicom import AE

    entity = AE(ae_title)
    entity.network_timeout = entity.dimse_timeout = timeout_s
    entity.acse_timeout = entity.connection_timeout = min(timeout_s, 30.0)
    entity.maximum_pdu_size = 1 << 17
    return entity
