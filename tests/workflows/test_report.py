"""Pages made again from their JSON, and printed by a stand-in for the browser."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from medseg.core.errors import UsageError
from medseg.core.settings import EvaluateSettings
from medseg.workflows.compare import compare
from medseg.workflows.evaluate import evaluate
from medseg.workflows.report import forecast_report, remake_pages


@pytest.fixture
def evaluated(workspace, inferred, cohort, tmp_path):
    """The folder of an evaluation of the test cases."""
    settings = EvaluateSettings(split="test", pictures=False)
    evaluate(workspace, inferred.out, tmp_path / "reports", settings, manifest=cohort)
    return tmp_path / "reports"


@pytest.fixture
def printer(tmp_path):
    """Prints what it is given, but not the page with the forbidden word."""
    program = tmp_path / "stand-in"
    program.write_text(
        f"#!{sys.executable}\nimport sys, pathlib\n"
        "page = pathlib.Path(sys.argv[-1].removeprefix('file://')).read_text()\n"
        "target = next(a.partition('=')[2] for a in sys.argv if a.startswith('--print-to-pdf='))\n"
        "'FORBIDDEN' in page and sys.exit('it says no')\n"
        "pathlib.Path(target).write_text('%PDF-' + page)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_the_cohort_is_made_again_and_cases_keep_their_pictures(evaluated):
    before = (evaluated / "index.html").read_text()
    pages = sorted(evaluated.glob("cases/*.html"))
    pages[0].write_text("with pictures")
    (evaluated / "index.html").unlink()
    made = remake_pages(evaluated)
    assert (evaluated / "index.html").read_text() == before
    assert pages[0].read_text() == "with pictures"
    assert made.made == ("index.html", "cohort.csv")
    assert made.kept == tuple(f"cases/{page.name}" for page in pages)
    assert (made.printed, made.failures) == ((), ())


def test_a_missing_case_page_is_made_from_its_json(evaluated):
    page = min(evaluated.glob("cases/*.html"))
    page.unlink()
    assert dict(forecast_report(evaluated, (), pdf=True).rows)["pages of cases to make without pictures"] == "1"
    made = remake_pages(evaluated)
    assert made.made[0] == f"cases/{page.name}"
    assert "Metrics per label" in page.read_text()
    assert f'href="cases/{page.name}"' in (evaluated / "index.html").read_text()


def test_a_comparison_is_made_again(evaluated, tmp_path):
    out = tmp_path / "compared"
    compare((evaluated, evaluated), out)
    page = (out / "comparison.html").read_text()
    (out / "comparison.html").unlink()
    made = remake_pages(out)
    assert made.made == ("comparison.html", "comparison.csv", "comparison-cases.csv")
    assert (out / "comparison.html").read_text() == page


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a script with a first line")
def test_one_page_that_fails_does_not_stop_the_others(evaluated, printer):
    pages = sorted(evaluated.glob("cases/*.html"))
    pages[0].write_text(pages[0].read_text().replace("</body>", "FORBIDDEN</body>"))
    made = remake_pages(evaluated, pdf="Letter", browser=printer)
    assert made.printed == ("index.pdf", *(f"cases/{page.stem}.pdf" for page in pages[1:]))
    (failure,) = made.failures
    assert (failure.case, failure.code) == (f"cases/{pages[0].name}", "E-PDF")
    assert "it says no" in failure.message
    assert "size: Letter" in (evaluated / "index.pdf").read_text()
    assert not pages[0].with_suffix(".pdf").exists()
    one = remake_pages(evaluated, cases=(pages[1].stem,), pdf="A4", browser=printer)
    assert one.printed == (f"cases/{pages[1].stem}.pdf",)
    with pytest.raises(UsageError, match="there is no page of absent"):
        remake_pages(evaluated, cases=("absent",), pdf="A4", browser=printer)


def test_a_damaged_json_is_a_failure_of_its_page_alone(evaluated):
    page = min(evaluated.glob("cases/*.html"))
    page.unlink()
    page.with_suffix(".json").write_text("{")
    made = remake_pages(evaluated)
    assert [failure.code for failure in made.failures] == ["E-JSON"]
    assert "index.html" in made.made


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a script with a first line")
def test_pages_of_other_commands_are_printed_as_they_are(tmp_path, printer):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "case.measurements.html").write_text("<style></style>measured")
    with pytest.raises(UsageError, match="E-NO-COHORT"):
        remake_pages(tmp_path / "other")
    made = remake_pages(tmp_path / "other", pdf="A4", browser=printer)
    assert made.printed == ("case.measurements.pdf",)
    assert (tmp_path / "other" / "case.measurements.html").read_text() == "<style></style>measured"


def test_an_empty_folder_has_nothing_to_make(tmp_path):
    with pytest.raises(UsageError, match="E-NO-COHORT"):
        remake_pages(tmp_path)
