"""Every check and every run of the project, each from nothing: `nox -s tests`, `nox -s demo`, `nox -l` for all."""

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "layers", "tests"]

# One environment for all sessions that need the package: it holds several gigabytes.
ENVIRONMENT = ".nox/medseg"
CONSTRAINTS = ("-c", "constraints.txt")


def install(session: nox.Session) -> None:
    session.install(*CONSTRAINTS, "-e", ".[test,types]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff check and ruff format."""
    session.install(*CONSTRAINTS, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(venv_location=ENVIRONMENT)
def types(session: nox.Session) -> None:
    """Types: mypy, strict."""
    install(session)
    session.run("mypy")


@nox.session(venv_location=ENVIRONMENT)
def layers(session: nox.Session) -> None:
    """Structure: layers import only downwards."""
    install(session)
    session.run("lint-imports")


@nox.session(venv_location=ENVIRONMENT)
def tests(session: nox.Session) -> None:
    """The default test suite; arguments after -- go to pytest."""
    install(session)
    session.run("pytest", "-m", "not slow and not gpu", *session.posargs)


@nox.session(venv_location=ENVIRONMENT)
def demo(session: nox.Session) -> None:
    """The main job on the embedded cohort, ending in an HTML report."""
    install(session)
    session.run("medseg", "demo", *session.posargs)


@nox.session(venv_location=ENVIRONMENT)
def bench(session: nox.Session) -> None:
    """The benchmarks; results go to benchmarks/results."""
    install(session)
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session(venv_location=ENVIRONMENT)
def docs(session: nox.Session) -> None:
    """Check that the documentation names only what exists."""
    install(session)
    session.run("pytest", "tests/test_docs.py", *session.posargs)
