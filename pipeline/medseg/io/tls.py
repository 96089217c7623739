"""TLS for the two ends of a DICOM association (PS3.15 B.12): version 1.2 or newer, certificates as PEM files."""

from __future__ import annotations

import ssl
from pathlib import Path

from medseg.core.errors import UsageError
from medseg.core.listening import ListenSettings


def receiving(settings: ListenSettings) -> ssl.SSLContext | None:
    """What the listener shows to callers, and asks of them when there are authorities to trust; None without TLS.

    Raises:
        UsageError: `E-PACS-TLS` when a file cannot be used.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _show(context, settings.tls_cert, settings.tls_key)
    if settings.tls_ca is not None:
        _trust(context, settings.tls_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def sending(settings: ListenSettings) -> ssl.SSLContext | None:
    """What the destination must prove, and what is shown to it; None without TLS towards it.

    Raises:
        UsageError: `E-PACS-TLS` when a file cannot be used.
    """
    if not settings.send_tls:
        return None
    context = ssl.create_default_context() if settings.tls_ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.tls_check_host
    if settings.tls_ca is not None:
        _trust(context, settings.tls_ca)
    if settings.tls_cert is not None:
        _show(context, settings.tls_cert, settings.tls_key)
    return context


def require_tls(settings: ListenSettings) -> None:
    """Refuse early what cannot be used.

    Raises:
        UsageError: `E-PACS-TLS`.
    """
    receiving(settings)
    sending(settings)


def _show(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    _require_readable(cert, key)
    try:
        # without a password nothing asks for one on the terminal
        context.load_cert_chain(cert, key, password=str)
    except (ssl.SSLError, ValueError) as error:
        mismatch = "key values mismatch" in str(error).lower().replace("_", " ")
        found = f"is not the key of {cert}" if mismatch else "holds no private key that can be read without a password"
        remedy = "Give a PEM certificate with --tls-cert and its own key, without a password, with --tls-key."
        raise _unusable(key or cert, found if mismatch or _is_certificate(cert) else None, remedy) from None


def _trust(context: ssl.SSLContext, authorities: Path) -> None:
    _require_readable(authorities)
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError:
        remedy = "Give the certificates of the authorities that you trust, in one PEM file, with --tls-ca."
        raise _unusable(authorities, None, remedy) from None


def _is_certificate(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True


def _require_readable(*paths: Path | None) -> None:
    for path in paths:
        if path is None:
            continue
        try:
            path.read_bytes()
        except OSError as error:
            remedy = "Check the path, and that this user may read it."
            raise _unusable(path, f"cannot be read: {error.strerror}", remedy) from None


def _unusable(path: Path, found: str | None, remedy: str) -> UsageError:
    return UsageError(found or "holds no certificate in PEM form", code="E-PACS-TLS", file=path, remedy=remedy)
