"""Pages to PDF with the browser that is on the machine: nothing prints HTML more faithfully."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.core.errors import InputError, UsageError
from medseg.io.files import atomic_path

_COMMANDS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge",
    "brave-browser",
)  # fmt: skip
_INSTALLED = {
    "darwin": (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    ),
    "win32": (
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
        r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
        r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
    ),
}
_TIMEOUT_S = 120
_CURE = "Install Chromium, Chrome or Edge, or name one with --browser; any browser also prints the pages by hand."

PrintPage = Callable[[str, Path], None]


def find_browser(named: Path | None = None) -> Path:
    """A browser of the Chromium family.

    Args:
        named: Use this one.

    Raises:
        UsageError: `E-NO-BROWSER`.
    """
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise UsageError("this browser cannot be run", code="E-NO-BROWSER", file=named, remedy=_CURE)
        return Path(found)
    candidates = (*_COMMANDS, *_INSTALLED.get(sys.platform, ()))
    path = next((found for name in candidates if (found := shutil.which(name))), None)
    if path is None:
        raise UsageError("no browser that prints was found", code="E-NO-BROWSER", remedy=_CURE)
    return Path(path)


@contextmanager
def pdf_printer(browser: Path, folder: Path) -> Iterator[PrintPage]:
    """A function that prints one page, given as text, to a PDF: tagged, with the title and language of the page.

    The browser reaches no network, and nothing of it stays.

    Args:
        browser: From `find_browser`.
        folder: Where it may keep its files meanwhile; browsers in a sandbox cannot read the system's own place.

    Raises:
        InputError: `E-PDF`, from the function, when the browser fails or takes longer than two minutes.
    """
    with tempfile.TemporaryDirectory(prefix=".printing-", dir=folder, ignore_cleanup_errors=True) as place:
        source = Path(place, "page.html")

        def print_page(page: str, target: Path) -> None:
            source.write_text(page, encoding="utf-8")
            with atomic_path(target) as written:
                # a browser that is still leaving holds its profile: every page gets one
                _run(browser, source, written, profile=Path(tempfile.mkdtemp(dir=place)))

        yield print_page


def _run(browser: Path, source: Path, target: Path, *, profile: Path) -> None:
    quiet = ("gpu", "extensions", "sync", "background-networking", "component-update")
    command = [
        str(browser),
        "--headless",
        "--no-first-run",
        *(f"--disable-{part}" for part in quiet),
        *(["--no-sandbox"] if _is_root() else []),
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--no-pdf-header-footer",
        f"--user-data-dir={profile.resolve()}",
        f"--print-to-pdf={target.resolve()}",
        source.resolve().as_uri(),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and every word is ours but the browser's path
            command, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(browser, f"it timed out after {_TIMEOUT_S} s") from error
    except OSError as error:
        raise _failed(browser, str(error)) from error
    with target.open("rb") as file:
        if done.returncode == 0 and file.read(5) == b"%PDF-":
            return
    said = done.stderr.decode(errors="replace").strip().splitlines()
    cause = next((line for line in said if "FATAL" in line), said[-1] if said else f"exit code {done.returncode}")
    raise _failed(browser, cause)


def _failed(browser: Path, reason: str) -> InputError:
    return InputError(
        f"{browser.name} did not print the page: {reason:.200}",
        code="E-PDF",
        remedy="Try another browser with --browser, or open the page and print it by hand.",
    )


def _is_root() -> bool:
    """Chromium's own sandbox refuses to start as root, the usual user of containers."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
