"""A compose file with what belongs to it: the `.env` and the override file beside it, and the files that it extends.

    ComposeProject(path).gateways()  ->  the services that are gateways, whole
    ComposeProject(path).others()    ->  the names of the rest, with their images

A service is a gateway by the name of its image, or because somebody names it. Others may be whatever they are, be it wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from yaml.nodes import MappingNode

from spreadpilot_core.ibkr.service.compose.env_files import Line, read_env_file
from spreadpilot_core.ibkr.service.compose.nodes import Entry, YamlFile
from spreadpilot_core.ibkr.service.compose.places import ComposeError, Place, shown_name
from spreadpilot_core.ibkr.service.compose.secret_files import SecretSource
from spreadpilot_core.ibkr.service.compose.services import Layer, Service, ServiceReader
from spreadpilot_core.ibkr.service.compose.variables import Filled, from_shell
from spreadpilot_core.ibkr.system.home_paths import in_home

_GATEWAY = re.compile(r"(?:.*/)?gnzsnz/ib-gateway(?::[\w.-]+)?(?:@[\w:.+-]+)?", re.ASCII)
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)
_OVERRIDES = {
    "compose.yaml": ("compose.override.yaml", "compose.override.yml"),
    "compose.yml": ("compose.override.yml", "compose.override.yaml"),
    "docker-compose.yml": ("docker-compose.override.yml", "docker-compose.override.yaml"),
    "docker-compose.yaml": ("docker-compose.override.yaml", "docker-compose.override.yml"),
}
"""What Compose reads beside a file of this name, when it is called without `-f`."""


@dataclass(frozen=True, slots=True)
class OtherService:
    """A service that is no gateway."""

    name: str
    place: Place
    image: str | None
    needs: Mapping[str, Place]
    """Services that Compose starts with it."""


class ComposeProject:
    """One compose file, and what is read with it."""

    def __init__(self, path: Path, *, env_file: Path | None = None, named: Sequence[str] = ()) -> None:
        """Read the files.

        Args:
            path: the compose file.
            env_file: its variables; None: `.env` beside it, where there is one.
            named: services that are gateways whatever their image is called; all others are none then.

        Raises:
            ComposeError: a file can't be read or understood.
        """
        self.path = path
        self.file = YamlFile(path)
        overrides = [path.with_name(each) for each in _OVERRIDES.get(path.name, ())]
        self.override = next((YamlFile(each) for each in overrides if each.exists()), None)
        self._named = named
        self._extended: dict[Path, YamlFile] = {path.absolute(): self.file}
        beside = path.with_name(".env")
        found = env_file if env_file is not None else beside if beside.exists() else None
        self._env: Mapping[str, Line] = read_env_file(found, from_shell) if found is not None else {}
        if (include := self._top(self.file).get("include")) is not None:
            raise ComposeError(
                include.place, "it includes other files, which are not read", hint="Import each of them by itself."
            )
        if unknown := [each for each in named if each not in self._names]:
            raise ComposeError(str(path), f"there is no service {unknown[0]!r} in it")

    def gateways(self) -> Iterator[Service]:
        """Every service that is a gateway, in the order of the file. Raises `ComposeError`."""
        for name, place in self._names.items():
            if self._is_gateway(name):
                if not _SERVICE.fullmatch(name):
                    raise ComposeError(place, "the name of this service can't be one of Compose's")
                yield self._reader(name).read(name, place)

    def others(self) -> Iterator[OtherService]:
        """Every other service."""
        for name, place in self._names.items():
            if not self._is_gateway(name):
                yield OtherService(shown_name(name), place, self._image(name), self._needs(name))

    # ------------------------------------------------------------------ inside

    def _lookup(self, name: str) -> Filled | None:
        """The shell's variable, else the one of the file of variables."""
        if (value := from_shell(name)) is not None:
            return value
        return self._env[name].filled if name in self._env else None

    def _top(self, file: YamlFile) -> Mapping[str, Entry]:
        return file.mapping(file.root, "the compose file")

    def _services(self, file: YamlFile) -> Mapping[str, Entry]:
        entry = self._top(file).get("services")
        return {} if entry is None else file.mapping(entry.node, "services")

    @cached_property
    def _names(self) -> Mapping[str, Place]:
        files = [self.file, *([self.override] if self.override is not None else [])]
        names: dict[str, Place] = {}
        for file in files:
            for name, entry in self._services(file).items():
                names.setdefault(name, entry.place)
        if not names:
            raise ComposeError(str(self.path), "it has no services, so it is no compose file")
        return names

    def _is_gateway(self, name: str) -> bool:
        if self._named:
            return name in self._named
        return _GATEWAY.fullmatch(self._image(name) or "") is not None

    def _image(self, name: str) -> str | None:
        try:
            image = self._reader(name).image()
        except ComposeError:
            return None
        return image.text if image is not None else None

    def _needs(self, name: str) -> Mapping[str, Place]:
        try:
            return dict(self._reader(name).depends_on())
        except ComposeError:
            return {}

    def _reader(self, name: str) -> ServiceReader:
        layers = list(self._layers(self.file, name, ())) if name in self._services(self.file) else []
        if self.override is not None and name in self._services(self.override):
            layers += self._layers(self.override, name, ())
        return ServiceReader(layers, self._lookup, self._secret)

    def _layers(self, file: YamlFile, name: str, above: tuple[tuple[str, str], ...]) -> Iterator[Layer]:
        """The service as this file has it, after what it extends."""
        if (file.name, name) in above:
            raise ComposeError(file.name, f"the service {shown_name(name)} extends itself")
        service = self._services(file).get(name)
        if service is None:
            raise ComposeError(file.name, f"there is no service {shown_name(name)}, which another one extends")
        keys = file.mapping(service.node, f"the service {shown_name(name)}")
        if "extends" in keys:
            base, other = self._extends(file, keys["extends"])
            yield from self._layers(base, other, (*above, (file.name, name)))
        yield Layer(file, keys)

    def _extends(self, file: YamlFile, entry: Entry) -> tuple[YamlFile, str]:
        if not isinstance(entry.node, MappingNode):
            return file, file.scalar(entry.node, "extends").text or ""
        keys = file.mapping(entry.node, "extends")
        said = {name: file.scalar(each.node, "extends").text or "" for name, each in keys.items()}
        if "file" not in said:
            return file, said.get("service", "")
        path = file.directory / said["file"]
        if path.absolute() not in self._extended:
            self._extended[path.absolute()] = YamlFile(path)
        return self._extended[path.absolute()], said.get("service", "")

    def _secret(self, name: str) -> SecretSource:
        """What the top of the files says of a secret."""
        for file in (self.override, self.file):
            entry = self._top(file).get("secrets") if file is not None else None
            if file is None or entry is None:
                continue
            known = file.mapping(entry.node, "secrets").get(name)
            if known is not None:
                return self._source(file, known)
        return SecretSource(why_not="the secret is not among those of the file")

    def _source(self, file: YamlFile, entry: Entry) -> SecretSource:
        reader = ServiceReader((), self._lookup, self._secret)
        keys = file.mapping(entry.node, "a secret")
        if "file" in keys:
            path = reader.text(file, keys["file"].node, "file of a secret").text or ""
            return SecretSource(path=file.directory / in_home(path))
        if "environment" in keys:
            value = self._lookup(reader.text(file, keys["environment"].node, "environment of a secret").text or "")
            if value is not None and not value.unset:
                return SecretSource(value=value.text)
            return SecretSource(why_not="the variable that the secret names is not set, or holds one that is not")
        return SecretSource(why_not="the secret is kept elsewhere, where it can't be read")
