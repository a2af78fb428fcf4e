"""Compose files as people have them, written down and read."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spreadpilot_core.ibkr.service.compose.gateways import ImportedGateway, gateways_of
from spreadpilot_core.ibkr.service.compose.places import Findings
from spreadpilot_core.ibkr.service.compose.project import ComposeProject, OtherService

IMAGE = "ghcr.io/gnzsnz/ib-gateway:stable"
PASSWORD = "planted-hunter2"
LOGIN = f"TWS_USERID: alice123\nTWS_PASSWORD: {PASSWORD}\nTRADING_MODE: paper\nREAD_ONLY_API: 'no'\nTZ: Etc/UTC\n"


@dataclass(frozen=True)
class Found:
    """What was read."""

    gateways: Sequence[ImportedGateway]
    others: Sequence[OtherService]
    problems: Sequence[str]
    remarks: Sequence[str]

    @property
    def only(self) -> ImportedGateway:
        """The one gateway, with nothing in its way."""
        assert not self.problems
        (gateway,) = self.gateways
        return gateway


class ComposeFiles:
    """A directory with a compose file and what belongs to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, compose: str, files: Mapping[str, str] | None = None) -> Path:
        """Write them, and give the compose file's path."""
        for name, text in (files or {}).items():
            self.directory.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
            self.directory.joinpath(name).write_text(textwrap.dedent(text), encoding="utf-8")
        path = self.directory / "docker-compose.yml"
        path.write_text(textwrap.dedent(compose), encoding="utf-8")
        return path

    def read(
        self, compose: str, files: Mapping[str, str] | None = None, *, named: Sequence[str] = (), prefix: str = ""
    ) -> Found:
        """What the import makes of it."""
        project = ComposeProject(self.write(compose, files), named=named)
        findings = Findings()
        ports = range(4100, 4201)
        gateways = [
            each
            for service in project.gateways()
            for each in gateways_of(service, findings, ports=ports, prefix=prefix)
        ]
        here = f"{self.directory}/"
        remarks = [str(each).replace(here, "") for each in findings.in_order()]
        return Found(gateways, list(project.others()), [each.replace(here, "") for each in findings.problems], remarks)

    def with_variables(self, variables: str, files: Mapping[str, str] | None = None, *, beside: str = "") -> Found:
        """One gateway with these variables, one a line, and beside them these keys of the service."""
        return self.read(one_service(variables, beside), files)


def one_service(variables: str, beside: str = "") -> str:
    """A compose file whose one service begins in line 2, and its variables in line 5."""
    environment = textwrap.indent(textwrap.dedent(variables), " " * 6)
    keys = textwrap.indent(textwrap.dedent(beside), " " * 4)
    return f"services:\n  ib-gateway:\n    image: {IMAGE}\n    environment:\n{environment}\n{keys}"
