"""Printing without a browser: a stand-in that takes the same words, and every way it can fail."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from medseg.core.errors import InputError, UsageError
from medseg.io import browser as module
from medseg.io.browser import find_browser, pdf_printer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-in is a script with a first line")


@pytest.fixture
def stand_in(tmp_path):
    """A program that is run as the browser would be."""

    def make(body: str):
        program = tmp_path / "stand-in"
        lines = (
            f"#!{sys.executable}",
            "import sys, pathlib, urllib.parse",
            "target = next(a.partition('=')[2] for a in sys.argv if a.startswith('--print-to-pdf='))",
            "source = urllib.parse.unquote(sys.argv[-1].removeprefix('file://'))",
            body,
        )
        program.write_text("\n".join(lines))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return program

    return make


def test_the_page_is_handed_over_and_nothing_stays_behind(stand_in, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    program = stand_in("pathlib.Path(target).write_bytes(b'%PDF-1.4 ' + pathlib.Path(source).read_bytes())")
    with pdf_printer(program, out) as print_page:
        print_page("<p>é</p>", out / "a.pdf")
        print_page("<p>2</p>", out / "b.pdf")
    assert (out / "a.pdf").read_bytes() == "%PDF-1.4 <p>é</p>".encode()
    assert sorted(path.name for path in out.iterdir()) == ["a.pdf", "b.pdf"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit('no display')", "no display"),
        ("sys.exit(3)", "exit code 3"),
        ("pass", "exit code 0"),
        ("pathlib.Path(target).write_text('<html>')", "exit code 0"),
        ("import time; time.sleep(60)", "timed out"),
    ],
)
def test_a_browser_that_fails_leaves_no_file(stand_in, tmp_path, monkeypatch, body, words):
    monkeypatch.setattr(module, "_TIMEOUT_S", 1 if "sleep" in body else 60)
    program = stand_in(body)
    with pdf_printer(program, tmp_path) as print_page, pytest.raises(InputError, match="E-PDF") as caught:
        print_page("<p>1</p>", tmp_path / "a.pdf")
    assert words in str(caught.value)
    assert caught.value.remedy
    assert not (tmp_path / "a.pdf").exists()


def test_the_network_is_out_of_reach_and_the_sandbox_on_for_everyone_but_root(stand_in, tmp_path, monkeypatch):
    program = stand_in("pathlib.Path(target).write_text('%PDF-' + ' '.join(sys.argv))")
    for root in (False, True):
        monkeypatch.setattr(module, "_is_root", lambda root=root: root)
        with pdf_printer(program, tmp_path) as print_page:
            print_page("", tmp_path / "a.pdf")
        said = (tmp_path / "a.pdf").read_text()
        assert "--host-resolver-rules=MAP * ~NOTFOUND" in said
        assert ("--no-sandbox" in said) == root


def test_no_browser_names_the_cure(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_INSTALLED", {})
    with pytest.raises(UsageError, match="E-NO-BROWSER") as caught:
        find_browser()
    assert "--browser" in caught.value.remedy
    with pytest.raises(UsageError, match="E-NO-BROWSER"):
        find_browser(tmp_path / "absent")


def test_a_browser_is_found_on_the_path_or_taken_by_name(stand_in, tmp_path, monkeypatch):
    program = stand_in("pass")
    assert find_browser(program) == program
    program.rename(tmp_path / "chromium")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_browser() == tmp_path / "chromium"
