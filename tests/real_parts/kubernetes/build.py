"""The program that every part of the tests' Kubernetes cluster is (see main.go), built once and kept in `.cache/`.

PYTHONPATH=tests python -m real_parts.kubernetes.build        what `make cluster` does
"""

from __future__ import annotations

import sys

from support.go_programs import GoProgram

VERSION = "1.33.1"
BUILD_MINUTES = 30
"""The first build compiles all of Kubernetes: five minutes on two idle cores."""
_VERSION_PACKAGE = "k8s.io/component-base/version"
_SAYS = {"gitVersion": f"v{VERSION}", "gitMajor": "1", "gitMinor": "33", "gitTreeState": "clean"}
"""Without it the API server calls itself v0.0.0, and clients refuse it."""
PROGRAM = GoProgram(
    "kubernetes",
    "a Kubernetes cluster",
    linker_flags=f"-s -w {' '.join(f'-X {_VERSION_PACKAGE}.{name}={value}' for name, value in _SAYS.items())}",
)


if __name__ == "__main__":
    sys.stdout.write(f"{PROGRAM.build()}\n")
