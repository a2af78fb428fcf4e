"""helm, built once from its Go module and kept in `.cache/`; and the chart."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.go_programs import CACHE, GoProgram

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "gateway-manager"
GOLDEN = Path(__file__).parents[1] / "data" / "chart"
_MODULE = "helm.sh/helm/v3"
_KNOWS = {"k8sVersionMajor": "1", "k8sVersionMinor": "33"}
"""Which Kubernetes it takes for granted where none is asked; a program built plainly believes in 1.20."""
PROGRAM = GoProgram(
    "helm",
    "helm",
    package=f"{_MODULE}/cmd/helm",
    linker_flags=f"-s -w {' '.join(f'-X {_MODULE}/pkg/chartutil.{name}={value}' for name, value in _KNOWS.items())}",
)
_SHOWN = 2000

may_build_helm = pytest.mark.timeout(15 * 60)


class HelmError(Exception):
    """It refused; the text is its own."""


def helm(*arguments: str, home: Path, kubeconfig: Path | None = None) -> str:
    """What helm prints. Raises `HelmError`."""
    places = {name: str(home / name.lower()) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    where = {} if kubeconfig is None else {"KUBECONFIG": str(kubeconfig)}
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **places, **where}
    done = subprocess.run(
        [str(PROGRAM.needed()), *arguments], env=environment, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise HelmError(done.stderr.strip()[-_SHOWN:])
    return done.stdout


def values_file(directory: Path, values: Mapping[str, Any]) -> Path:
    """These values, as `--values` takes them."""
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    return file


def rendered(name: str, home: Path, *, namespace: str = "trading", gateways: str | None = None) -> str:
    """What the chart makes of the values of this name in tests/data/chart, for the release `fleet` in this namespace."""
    values = ["--values", str(GOLDEN / f"{name}.values.yaml")]
    values += [] if gateways is None else ["--set", f"gateways.namespace={gateways}"]
    return helm("template", "fleet", str(CHART), "--namespace", namespace, *values, home=home)


if __name__ == "__main__":  # PYTHONPATH=tests python -m support.helm: what the chart makes now is what it should
    for values in sorted(GOLDEN.glob("*.values.yaml")):
        case = values.name.partition(".")[0]
        (GOLDEN / f"{case}.yaml").write_text(rendered(case, CACHE))
