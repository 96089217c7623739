"""A listener on the hospital's network: what may be chosen, and what its queue keeps of a series."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medseg.core.document import Document

State = Literal["receiving", "waiting", "working", "sending", "done", "failed"]

_AE_TITLE = re.compile(r"(?! *$)[\x20-\x5B\x5D-\x7E]{1,16}")
_PEER = re.compile(r"(?P<ae_title>[^@]+)@(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Peer:
    """Another DICOM application: its AE title and where it listens."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


class ListenSettings(Document):
    """`medseg listen`."""

    ae_title: str = Field(default="MEDSEG", description="of the listener, which callers must name")
    bind: str = Field(default="127.0.0.1", description="address to listen on; another than loopback needs allow_remote")
    port: int = Field(default=11112, ge=0, le=65535, description="0: any free one, which is printed")
    allow_remote: bool = Field(default=False, description="listen on the network; needs `allow`")
    allow: tuple[str, ...] = Field(
        default=(), description="who may call: AE@ADDRESS, AE, or @ADDRESS; an address may be a network, 10.0.0.0/24"
    )
    send: str | None = Field(default=None, description="AE@host:port that gets the results")
    tls_cert: Path | None = Field(default=None, description="PEM certificate, with its chain: only TLS is spoken")
    tls_key: Path | None = Field(default=None, description="its key, without a password; default: in tls_cert")
    tls_ca: Path | None = Field(
        default=None, description="PEM authorities: callers must show a certificate of theirs, as must the destination"
    )
    send_tls: bool = Field(default=False, description="TLS towards the destination; tls_cert is shown where asked for")
    tls_check_host: bool = Field(default=True, description="the destination's certificate must name its host")
    keep: bool = Field(default=False, description="keep received series and results after success")
    settle_s: float = Field(default=10, gt=0, description="of silence, with every association closed, end a series")
    max_tries: int = Field(default=12, ge=1, description="of sending, or of work that failed for want of room or time")
    retry_s: float = Field(default=30, gt=0, description="before the second try; doubles with each, up to an hour")
    timeout_s: float = Field(default=60, gt=0, description="of silence in an association, then it is aborted")
    max_associations: int = Field(default=8, ge=1, description="at once")
    max_object_mib: float = Field(default=1024, gt=0, description="of one DICOM object")
    max_objects: int = Field(default=20_000, ge=1, description="of one series")
    max_series: int = Field(default=1000, ge=1, description="that are not done")
    reserve_gib: float = Field(default=1, ge=0, description="of the disk that stays free")
    remember_days: float = Field(default=30, gt=0, description="that a done series is known, and not done again")

    @field_validator("ae_title")
    @classmethod
    def _title(cls, value: str) -> str:
        if not _AE_TITLE.fullmatch(value):
            message = "an AE title has 1 to 16 printable characters and no backslash"
            raise ValueError(message)
        return value.strip()

    @field_validator("bind")
    @classmethod
    def _address(cls, value: str) -> str:
        return str(ipaddress.ip_address("127.0.0.1" if value == "localhost" else value))

    @field_validator("allow", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """`A,B@10.0.0.7` as well as a list."""
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            return value
        return tuple(word.strip() for part in parts for word in str(part).split(",") if word.strip())

    @field_validator("allow")
    @classmethod
    def _callers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            title, _, address = entry.partition("@")
            if title and not _AE_TITLE.fullmatch(title):
                message = f"{title!r} is no AE title"
                raise ValueError(message)
            if address or not title:
                ipaddress.ip_network(address, strict=False)
        return value

    @field_validator("send")
    @classmethod
    def _destination(cls, value: str | None) -> str | None:
        if value is not None:
            parse_peer(value)
        return value

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> ListenSettings:
        if not ipaddress.ip_address(self.bind).is_loopback and not (self.allow_remote and self.allow):
            message = (
                f"listening on {self.bind} opens the queue to the network: it needs allow_remote and, in allow, who "
                "may call (--allow-remote --allow AE@ADDRESS)"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _tls(self) -> ListenSettings:
        problem = {
            "tls_key is of no use without tls_cert": self.tls_key and not self.tls_cert,
            "tls_ca is of no use without tls_cert or send_tls": self.tls_ca and not (self.tls_cert or self.send_tls),
            "send_tls is of no use without send": self.send_tls and not self.send,
        }
        for message, is_so in problem.items():
            if is_so:
                raise ValueError(message)
        return self

    @property
    def destination(self) -> Peer | None:
        return None if self.send is None else parse_peer(self.send)

    def admits(self, ae_title: str, address: str) -> bool:
        """Whether a caller of this AE title and address may store; everyone while nobody is named."""
        return not self.allow or any(_fits(entry, ae_title.strip(), address) for entry in self.allow)


class Job(Document):
    """One series in the queue: `job.json` in its folder. Nothing in it is the patient's or the sender's word."""

    schema_version: Literal[1] = 1
    id: str = Field(description="from a hash of the series' UID")
    state: State = "receiving"
    instances: tuple[str, ...] = Field(default=(), description="hashes of the instances when the series settled")
    finished: bool = Field(default=False, description="these instances were segmented and delivered")
    results: tuple[str, ...] = Field(default=(), description="files to deliver, in order")
    sent: tuple[str, ...] = Field(default=(), description="of these, what the destination has confirmed")
    tries: int = 0
    due: float = Field(default=0, description="not before this time, in seconds since 1970")
    code: str | None = Field(default=None, description="why it failed, or why it is tried again")
    reason: str | None = None
    flags: tuple[str, ...] = ()
    created: float = Field(description="seconds since 1970")
    changed: float = Field(description="seconds since 1970")


def parse_peer(text: str) -> Peer:
    """`AE@host:port`.

    Raises:
        ValueError: It is not.
    """
    match = _PEER.fullmatch(text.strip())
    if match is None or not _AE_TITLE.fullmatch(match["ae_title"]) or not 0 < int(match["port"]) < 65536:
        message = f"must be AE@host:port, got {text!r}"
        raise ValueError(message)
    return Peer(match["ae_title"].strip(), match["host"].strip("[]"), int(match["port"]))


def _fits(entry: str, ae_title: str, address: str) -> bool:
    title, _, network = entry.partition("@")
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or found
    return (not title or title.strip() == ae_title) and (
        not network or mapped in ipaddress.ip_network(network, strict=False)
    )
