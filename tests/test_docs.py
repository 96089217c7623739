"""The documentation names only what exists, and names all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from medseg.apps.cli import app
from medseg.core import detection, findings
from medseg.core.settings import Settings
from medseg.ops.metrics import METRICS
from medseg.workflows.config import load_settings, named_windows, packaged

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted((ROOT / "pipeline").rglob("*.py"))
CODE = re.compile(r"\b([EW]-[A-Z0-9]+(?:-[A-Z0-9]+)*)\b")
ROW = re.compile(r"(?:^\| |, )`([EW]-[A-Z0-9-]+)`")


def commands() -> dict[str, set[str]]:
    """Every command and its options."""
    group = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()
    }


def test_every_code_in_the_source_is_documented_and_every_documented_code_exists():
    raised = {code for path in SOURCES for code in CODE.findall(path.read_text(encoding="utf-8"))}
    documented = set(CODE.findall((ROOT / "docs" / "errors.md").read_text(encoding="utf-8")))
    # A code that ends in a value, as W-GEOM-SFORM, stands in the source as its beginning.
    beginnings = {code for code in raised if any(other.startswith(f"{code}-") for other in documented)}
    assert raised - documented - beginnings == set()
    assert {code for code in documented - raised if not any(code.startswith(f"{b}-") for b in beginnings)} == set()


def test_no_code_is_documented_twice_and_errors_and_flags_stand_in_tables_of_their_own():
    tables = re.split(r"\n\n", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))
    rows = [[code for line in table.splitlines() for code in ROW.findall(line.split(" | ")[0])] for table in tables]
    listed = [code for table in rows for code in table]
    assert len(listed) > 200
    assert [code for code in dict.fromkeys(listed) if listed.count(code) > 1] == []
    assert [table for table in rows if len({code[0] for code in table}) > 1] == []


def test_every_documented_error_is_named_by_a_test():
    documented = set(CODE.findall((ROOT / "docs" / "errors.md").read_text(encoding="utf-8")))
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    named = {code for path in tests for code in CODE.findall(path.read_text(encoding="utf-8"))}
    assert sorted(code for code in documented - named if code.startswith("E-")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_and_options_in_the_documentation_exist(page):
    known = commands()
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(rf"medseg ((?:{'|'.join(known)})\b[^\n`|]*)", text):
        name, *words = line.split()
        for word in words:
            if word.startswith("#"):
                break
            option = word.rstrip(".,;:)").split("=")[0]
            if option.startswith("--"):
                assert option in known[name] | {"--help", "--debug"}, f"{page.name}: medseg {line}"


def test_every_number_of_a_report_is_defined():
    """Each field of the documents that hold numbers, and each metric, stands on the page of definitions."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    documents = (
        findings.LabelMetrics, findings.LabelSummary, findings.Estimate, findings.ClassSummary, findings.ClassArea,
        findings.OrdinalSummary,
        findings.RocCurve, findings.ReliabilityBin, findings.MultiLabelSummary, findings.SubgroupSummary,
        detection.LesionMatch, detection.LesionDetection, detection.LesionSummary,
    )  # fmt: skip
    names = {name for document in documents for name in document.model_fields} | set(METRICS)
    self_evident = {"label", "head", "heads", "classes", "name", "attribute", "group", "lesions"}
    missing = {name for name in names - self_evident if f"`{name}`" not in text}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_default_config_is_complete_and_equals_the_defaults():
    assert load_settings(packaged("configs", "default.yaml")) == Settings()
    text = packaged("configs", "default.yaml").read_text(encoding="utf-8")
    for section, model in Settings.model_fields.items():
        for key in model.annotation.model_fields:
            assert re.search(rf"^  {key}:", text, re.MULTILINE), f"{section}.{key}"


def test_the_promised_windows_are_there():
    assert {"soft_tissue", "lung", "bone", "brain"} <= set(named_windows())
    assert all(low < high for low, high in named_windows().values())


def test_no_page_or_source_carries_a_path_of_a_machine():
    for path in [*PAGES, *SOURCES]:
        assert not re.search(r"(?<![\w./])/(?:home|root|work|Users)/", path.read_text(encoding="utf-8")), path
