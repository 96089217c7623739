"""Every check and every run of the project, each from nothing: `nox -s tests`, `nox -s demo`, `nox -l` for all."""

import os
import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "layers", "tests"]

CONSTRAINTS = ("-c", "constraints.txt")
ENVIRONMENT = "environment"


@nox.session(name=ENVIRONMENT, default=False)
def environment(session: nox.Session) -> None:
    """The package with all it needs: one environment for all sessions, since it holds several gigabytes."""
    session.install(*CONSTRAINTS, "-e", ".[test,types]")
    # It brings axe-core (MPL-2.0) for the checks in Chromium; the browser driver it would ask for is not used.
    session.install(*CONSTRAINTS, "--no-deps", "axe-playwright-python")


def run(session: nox.Session, *command: str, **variables: str) -> None:
    """Run a program of the shared environment."""
    programs = Path(".nox", ENVIRONMENT, "Scripts" if os.name == "nt" else "bin").absolute()
    path = os.pathsep.join([str(programs), os.environ.get("PATH", "")])
    session.run(str(programs / command[0]), *command[1:], env={"PATH": path, **variables}, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff check and ruff format."""
    session.install(*CONSTRAINTS, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(venv_backend="none", requires=[ENVIRONMENT])
def types(session: nox.Session) -> None:
    """Types: mypy, strict."""
    run(session, "mypy")


@nox.session(venv_backend="none", requires=[ENVIRONMENT])
def layers(session: nox.Session) -> None:
    """Structure: layers import only downwards."""
    run(session, "lint-imports")


@nox.session(venv_backend="none", requires=[ENVIRONMENT])
def tests(session: nox.Session) -> None:
    """The default test suite, file by file in two processes; arguments after -- go to pytest."""
    two = ("--numprocesses=2", "--dist=loadfile")
    with tempfile.TemporaryDirectory(dir=memory_for_files()) as folder:
        where = {"TMPDIR": folder, "PYTEST_DEBUG_TEMPROOT": folder}
        run(session, "pytest", "-m", "not slow and not gpu", *two, *session.posargs, OMP_NUM_THREADS="1", **where)


def memory_for_files() -> Path | None:
    """A folder that is held in memory, where there is room: tests wait for a disk a fifth of their time."""
    folder = Path("/dev/shm")  # noqa: S108 what lies in it gets a folder of its own
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > 4 * 2**30 else None


@nox.session(venv_backend="none", requires=[ENVIRONMENT])
def browser(session: nox.Session) -> None:
    """The pages alone, in headless Chromium: axe-core, keyboard, phone, paper. Part of the tests where Chromium is."""
    run(session, "pytest", "-m", "browser", "tests/report", *session.posargs)


@nox.session(venv_backend="none", requires=[ENVIRONMENT])
def demo(session: nox.Session) -> None:
    """The main job on the embedded cohort, ending in an HTML report."""
    run(session, "medseg", "demo", *session.posargs)


@nox.session(venv_backend="none", requires=[ENVIRONMENT])
def bench(session: nox.Session) -> None:
    """The benchmarks that need no data; results go to benchmarks/results."""
    run(session, "python", "benchmarks/run.py")


@nox.session(venv_backend="none", requires=[ENVIRONMENT])
def docs(session: nox.Session) -> None:
    """Check that the documentation names what exists, and all of it."""
    run(session, "pytest", "tests/test_docs.py", *session.posargs)
