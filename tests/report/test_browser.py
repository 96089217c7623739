"""Every page in headless Chromium: checked by axe-core, driven by keys alone, on a phone, on paper.

A new page is one more entry of PAGES. axe-core comes from MEDSEG_AXE_JS (the path of axe.min.js) or from the package
axe-playwright-python, of which nothing else is used.
"""

from __future__ import annotations

import fcntl
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from medseg.core.case import Case, Dataset
from medseg.core.doctor import CaseTreatment, DoctorReport, Finding
from medseg.core.findings import Provenance
from medseg.core.reading import Reading
from medseg.core.volume import LabelMap
from medseg.data.treatment import diagnose, intended
from medseg.io.browser import pdf_printer
from medseg.io.volumes import write_labels, write_volume
from medseg.ops.surfaces import DirectedDistances, SurfaceDistances
from medseg.report.before_after import compare
from medseg.report.calipers import draw_lesions
from medseg.report.case import render_case
from medseg.report.cohort import render_cohort
from medseg.report.comparison import render_comparison
from medseg.report.doctor import render_doctor
from medseg.report.followup import render_followup
from medseg.report.measurements import render_measurements
from medseg.report.paper import for_paper
from medseg.report.pictures import case_pictures

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
PHONE_PX = 360
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH"),
    pytest.mark.skipif(os.name != "posix", reason="speaks to the browser through numbered pipes"),
]


def _case(get: Callable) -> str:
    image, prediction, reference, labels = get("scan")
    pictures = case_pictures(image, prediction=prediction, reference=reference, labels=labels)
    return render_case(get("make_case")(), pictures, cohort_page="cohort.html")


def _measurements(get: Callable) -> str:
    image, _, reference, labels = get("scan")
    report = get("make_measurements")()
    drawn = draw_lesions(report.measurements, reference, labels=labels, image=image, unit="HU")
    return render_measurements(report, drawn, staging=get("make_staging")())


def _doctor(get: Callable) -> str:
    """A mask with a slice less, mended, beside a case that was left out."""
    (image, _, mask, labels), folder = get("scan"), get("tmp_path")
    part = mask.geometry.cropped((0, 0, 0), (*mask.array.shape[:2], mask.array.shape[2] - 1))
    write_volume(image, folder / "image.nii.gz")
    write_labels(LabelMap(mask.array[:, :, :-1], part), folder / "mask.nii.gz")
    case = Case(id="case", images=(folder / "image.nii.gz",), label=folder / "mask.nii.gz")
    dataset = Dataset(name="ward", labels=labels, cases=(case,))
    patient = diagnose(case, dataset, Reading())
    reason = Finding(
        case="other", severity="error", code="E-GZ-CRC", file="o.nii.gz", message="damaged", remedy="Copy."
    )
    report = DoctorReport(
        dataset="ward",
        reading=Reading(),
        findings=(reason,),
        cases=(
            intended(case, patient, folder),
            CaseTreatment(case="other", outcome="left out", reasons=(reason,)),
        ),
        remaining=(reason.model_copy(update={"severity": "warning"}),),
        provenance=Provenance(medseg_version="9.8.7", created="2026-01-02T03:04:05Z"),
    )
    return render_doctor(report, [compare("case", patient, dataset)])


PAGES: dict[str, Callable[[Callable], str]] = {
    "case": _case,
    "cohort": lambda get: render_cohort(get("make_cohort")(), case_pages={"case_001": "case.html"}),
    "measurements": _measurements,
    "doctor": _doctor,
    "comparison": lambda get: render_comparison(get("make_comparison")()),
    "followup": lambda get: render_followup(get("make_followup")(), get("followup_drawn")),
}


def axe_script() -> Path | None:
    named = os.environ.get("MEDSEG_AXE_JS")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("axe_playwright_python")
    return None if spec is None or spec.origin is None else Path(spec.origin).with_name("axe.min.js")


class Browser:
    """One Chromium and one tab, spoken to in the DevTools protocol over two pipes: JSON messages that end in a NUL."""

    def __init__(self, profile: Path) -> None:
        take, self._write = os.pipe()
        self._read, give = os.pipe()
        quiet = ("gpu", "quic", "sync", "background-networking", "component-update", "extensions")
        options = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{part}" for part in quiet)]
        pipes = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (take, give)]  # above 3 and 4, which they become
        become = (
            "import os, sys; [os.dup2(int(sys.argv[n]), n + 2) for n in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", become, *map(str, pipes), str(CHROMIUM), *options, "--remote-debugging-pipe",
             f"--user-data-dir={profile}"],
            pass_fds=pipes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (take, give, *pipes):
            os.close(end)
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session: dict[str, str] = {}
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 20)
            assert part, "the browser has gone"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def open(self, page: Path, *, scheme: str = "light", width: int = 1200, motion: str = "no-preference") -> None:
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> object:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39, " ": 32}
        text = {"Enter": "\r", " ": " "}.get(key, "")
        known = {"key": key, "windowsVirtualKeyCode": codes[key], "code": "Space" if key == " " else key}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **known)
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def close(self) -> None:
        self._session = {}
        self.call("Browser.close")
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / f"{request.param}.html"
    file.write_text(PAGES[request.param](request.getfixturevalue), encoding="utf-8")
    return file


@pytest.fixture
def case_page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / "case.html"
    file.write_text(_case(request.getfixturevalue), encoding="utf-8")
    return file


@pytest.mark.skipif(axe_script() is None, reason="needs axe-core: pip install --no-deps axe-playwright-python")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", PHONE_PX)])
def test_axe_finds_no_violation(browser, page, scheme, width) -> None:
    browser.open(page, scheme=scheme, width=width)
    browser.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    browser.evaluate(axe_script().read_text(encoding="utf-8") + ";0")
    found = browser.evaluate(
        f"axe.run(document, {{runOnly: {json.dumps(RULES)}}}).then("
        "r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]))"
    )
    assert found == []


def test_the_page_keeps_to_its_policy_and_asks_for_nothing(browser, page) -> None:
    browser.open(page)
    browser.evaluate("new Promise(done => setTimeout(done, 50))")
    said = [event for event in browser.events if event.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert said == []
    assert (
        browser.evaluate("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length")
        == 0
    )


def test_a_phone_shows_the_page_without_sideways_scrolling(browser, page) -> None:
    browser.open(page, width=PHONE_PX)
    browser.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= PHONE_PX


def test_keys_alone_reach_everything_and_focus_is_always_seen(browser, page) -> None:
    browser.open(page)
    browser.evaluate(
        "window.wanted = [...document.querySelectorAll('a[href], button, input, summary, [tabindex]')].filter("
        "e => e.checkVisibility() && (e.type !== 'radio' || e.checked)); wanted.length"
    )
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    box = browser.evaluate("(b => [b.left, b.top, b.width])(document.activeElement.getBoundingClientRect())")
    assert min(box) >= 0
    browser.evaluate("window.reached = new Set(); 0")
    for _ in range(browser.evaluate("wanted.length")):
        place, has_outline = browser.evaluate(
            "(e => { reached.add(e); const style = getComputedStyle(e); return [e.outerHTML.slice(0, 120), "
            "style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1]; })(document.activeElement)"
        )
        assert has_outline, place
        browser.press("Tab")
    assert browser.evaluate("wanted.filter(e => !reached.has(e)).map(e => e.outerHTML.slice(0, 120))") == []
    assert browser.evaluate("document.activeElement !== wanted.at(-1)"), "the last one holds the focus"


def test_the_skip_link_leads_to_the_content(browser, page) -> None:
    browser.open(page)
    browser.press("Tab")
    browser.press("Enter")
    assert browser.evaluate("location.hash") == "#content"


def test_nothing_moves(browser, page) -> None:
    """So that a wish for reduced motion is met without a rule of its own."""
    for motion in ("no-preference", "reduce"):
        browser.open(page, motion=motion)
        assert browser.evaluate("document.getAnimations().length") == 0
        style = "getComputedStyle(e)"
        moving = f"e => parseFloat({style}.transitionDuration) > 0 || {style}.scrollBehavior === 'smooth'"
        assert browser.evaluate(f"[...document.querySelectorAll('*')].filter({moving}).length") == 0


def test_without_scripts_all_is_still_there(browser, page) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert not browser.evaluate("document.querySelector('th button, .zoom')")
        assert browser.evaluate("document.querySelectorAll('table tbody tr').length") > 2
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_a_desktop_shows_every_column_of_a_cohort_and_the_interval_of_each_mean(browser, request, tmp_path) -> None:
    file = tmp_path / "cohort.html"
    file.write_text(PAGES["cohort"](request.getfixturevalue), encoding="utf-8")
    browser.open(file, width=1280)
    assert browser.evaluate("(t => t.scrollWidth <= t.clientWidth)(document.querySelector('.summary').parentElement)")
    strokes = browser.evaluate("[...document.querySelectorAll('.interval')].map(e => getComputedStyle(e).stroke)")
    assert strokes
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") not in strokes


def test_a_table_is_sorted_by_keys(browser, request, tmp_path) -> None:
    file = tmp_path / "cohort.html"
    file.write_text(PAGES["cohort"](request.getfixturevalue), encoding="utf-8")
    browser.open(file)
    browser.evaluate("[...document.querySelectorAll('th button')].find(b => b.textContent === 'Mean Dice').focus()")
    column = "[...document.querySelectorAll('.cases tbody tr')].map(r => parseFloat(r.cells[2].textContent))"
    browser.press("Enter")
    rising = browser.evaluate(column)
    assert rising == sorted(rising)
    assert browser.evaluate("document.activeElement.parentElement.ariaSort") == "ascending"
    browser.press(" ")
    assert browser.evaluate(column) == rising[::-1]


def test_a_window_is_chosen_by_keys(browser, case_page) -> None:
    browser.open(case_page)
    shown = "[0, 1].map(n => getComputedStyle(document.querySelector('.viewport .w' + n)).display)"
    assert browser.evaluate(shown) == ["inline", "none"]
    browser.evaluate("document.querySelector('#window-0').focus()")
    browser.press("ArrowRight")
    assert browser.evaluate(shown) == ["none", "inline"]


def test_a_picture_is_enlarged_by_keys_and_escape_closes_it(browser, case_page) -> None:
    browser.open(case_page)
    size = "document.querySelector('.viewport svg').getBoundingClientRect().width"
    small = browser.evaluate(size)
    browser.evaluate("document.querySelector('.zoom').focus()")
    browser.press("Enter")
    assert browser.evaluate(size) > 2 * small
    assert browser.evaluate("document.activeElement.ariaExpanded") == "true"
    assert browser.evaluate("document.activeElement.ariaLabel").startswith("Close: Axial")
    browser.press("Escape")
    assert browser.evaluate(size) == small
    assert browser.evaluate("document.activeElement.ariaExpanded") == "false"
    browser.press("Enter")
    browser.press("Tab")
    assert browser.evaluate(size) == small


def test_every_picture_is_told_in_words(browser, case_page) -> None:
    browser.open(case_page)
    told = browser.evaluate("[...document.querySelectorAll('.viewport svg')].map(e => e.getAttribute('aria-label'))")
    assert len(told) == 9
    for words in told:
        assert re.search(r"(Axial|Coronal|Sagittal).*slice [ijk] \d+ of \d+: .*\b(organ|lesion)\b", words), words
        assert re.search(r"[RA] is at the left edge", words)
    assert sum("missed" in words for words in told) >= 3


def _ten_labels(get: Callable) -> str:
    """Ten labels with a histogram each."""
    image, prediction, reference, _ = get("scan")
    labels = {f"structure {n}": n for n in range(1, 11)}
    grown = [LabelMap(mask.array + 2 * (np.arange(18) // 4).astype(np.uint8) * (mask.array > 0), mask.geometry)
             for mask in (prediction, reference)]  # fmt: skip
    pictures = case_pictures(image, prediction=grown[0], reference=grown[1], labels=labels)
    one = get("make_case")().metrics[0]
    rows = tuple(one.model_copy(update={"label": name}) for name in labels)
    side = DirectedDistances(np.random.default_rng(0).exponential(1.0, 500), np.ones(500))
    report = get("make_case")(metrics=rows, volumes_ml=dict.fromkeys(labels, 12.3), unlabelled=(), flags=())
    return render_case(report, pictures, distances=dict.fromkeys(labels, SurfaceDistances(side, side)))


@pytest.mark.parametrize("paper", ["A4", "Letter"])
@pytest.mark.parametrize("make", [_case, _ten_labels])
def test_a_case_prints_on_two_sheets_tagged_and_without_a_path(request, tmp_path, paper, make) -> None:
    target = tmp_path / "case.pdf"
    with pdf_printer(Path(CHROMIUM), tmp_path) as print_page:
        print_page(for_paper(make(request.getfixturevalue), paper), target)
    written = target.read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", written)) == 2
    width, height = map(float, re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", written).groups())
    assert (width, height) == pytest.approx({"A4": (595, 842), "Letter": (612, 792)}[paper], abs=1)
    assert b"/StructTreeRoot" in written
    assert b"/Lang (en)" in written
    assert b"file:" not in written
