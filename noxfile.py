"""The Pythons beside 3.11 that `.ci/run` tests on, with the targets of the Makefile; `nox -s tests-3.13` runs one.

Looked for on the PATH and under `~/.pyenv/versions`. One that is not there is skipped and named in the summary.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import nox

nox.options.error_on_missing_interpreters = False  # nox's own rule differs where CI is set
nox.options.download_python = "never"

PYTHONS = ("3.12", "3.13", "3.14")
MEASURED = "3.13"
"""Where coverage is measured, to be judged by `make check`: from 3.12 on the interpreter itself tells which lines run, at nearly no cost."""
TESTS = "tests/unit tests/contract tests/acceptance"
"""Where the Pythons differ shows here; integration and fault tests would add what real servers do, which is the same for each."""
BUT = "not kubernetes and not cluster"
"""The cluster's tests take minutes, and what they see is the cluster: they run on 3.11 alone."""


def _look_for_pythons() -> None:
    """Put pyenv's interpreters before its shims, which are there for every version and run none that is not switched on."""
    found = (next(Path.home().glob(f".pyenv/versions/{version}.*/bin"), None) for version in PYTHONS)
    os.environ["PATH"] = os.pathsep.join([*(str(each) for each in found if each), os.environ["PATH"]])
    for version in PYTHONS:
        if shutil.which(f"python{version}") is None:
            sys.stderr.write(f"Python {version} was not found here and is not tested.\n")


_look_for_pythons()


@nox.session(python=PYTHONS, venv_backend="venv")
def tests(session: nox.Session) -> None:
    """Run the demo, unit, contract and acceptance tests."""
    python = session.virtualenv.location
    make = ("make", "--no-print-directory", f"VENV={python}")
    session.run(*make, "demo", "ARGS=--once", external=True)
    measure = "COV=--cov --cov-report= --cov-fail-under=0" if session.python == MEASURED else "COV="
    arguments = f"ARGS={TESTS} {shlex.join(['-k', BUT, *session.posargs])}"
    session.run(*make, "test", measure, "SECOND_CHANCE=yes", arguments, env={"COVERAGE_CORE": "sysmon"}, external=True)
