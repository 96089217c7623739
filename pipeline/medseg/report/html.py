"""One self-contained HTML file from a template: style, script and pictures inside; nothing else is fetched or run."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from urllib.parse import quote

import jinja2
from markupsafe import Markup

_MINUS = "\N{MINUS SIGN}"
_THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"


def render(template: str, values: Mapping[str, object], *, script: str | None = None) -> str:
    """Fill a template.

    The content security policy names the hashes of our own style and script: whatever else stands in the page, from a
    case id to an attribute, cannot run or load anything even if escaping failed.

    Args:
        template: File name in `templates/`.
        values: What the template shows; every text is escaped.
        script: File name in `templates/` of the one script of the page, if any.
    """
    style = _source("style.css")
    code = _source(script) if script else ""
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{policy_hash(style)}'",
        f"script-src '{policy_hash(code)}'" if code else "script-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    page = _environment().get_template(template)
    return page.render(values, style=Markup(style), script=Markup(code), policy="; ".join(policy))  # noqa: S704


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals and a true minus sign; a dash for None."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    return f"{value:.{digits}f}".replace("-", _MINUS)


def scaled(value: float | None) -> str:
    """A length, area or volume with about three significant digits, never in exponents."""
    if value is None or math.isinf(value):
        return fixed(value)
    size = abs(value)
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    text = f"{value:,.{digits}f}" if size >= 10_000 else f"{value:.{digits}f}"
    return text.replace(",", _THIN_SPACE).replace("-", _MINUS)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{fixed(100 * value, 1)}{_THIN_SPACE}%"


def place(point_mm: Sequence[float]) -> str:
    """A point in the patient as a reader says it: `R 12, P 30, S 104`, in mm from the origin of the scan."""
    letters = ("RL", "AP", "SI")
    return ", ".join(
        f"{pair[value < 0]}{_THIN_SPACE}{abs(value):.0f}" for pair, value in zip(letters, point_mm, strict=True)
    )


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def relative_link(path: str) -> str:
    """A path as a link that can only mean a file below this page: no scheme, no host, no query."""
    return quote(path.lstrip("/\\"), safe="/")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medseg.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"zip": zip}
    environment.filters |= {
        "fixed": fixed,
        "scaled": scaled,
        "percent": percent,
        "place": place,
        "data_uri": data_uri,
        "relative_link": relative_link,
    }
    return environment


def _source(name: str) -> str:
    return files("medseg.report").joinpath("templates", name).read_text(encoding="utf-8")


def policy_hash(text: str) -> str:
    """What a content security policy calls an inline style or script that it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
