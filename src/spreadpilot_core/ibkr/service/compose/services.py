"""One service: what it extends, what overrides it and the files it names, put together as Compose does, a line for everything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from spreadpilot_core.ibkr.service.compose.env_files import read_env_file
from spreadpilot_core.ibkr.service.compose.nodes import Entry, Scalar, YamlFile
from spreadpilot_core.ibkr.service.compose.places import ComposeError, Place, shown_name
from spreadpilot_core.ibkr.service.compose.secret_files import Mounts, SecretSource
from spreadpilot_core.ibkr.service.compose.variables import Filled, Lookup, VariableError, fill
from spreadpilot_core.ibkr.system.home_paths import in_home

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_MOST_PORTS = 100
_SHORT_BIND = 2
_READ = frozenset({"image", "environment", "env_file", "ports", "secrets", "extends"})
"""Keys that are read here; the rest is what the import has no counterpart for."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A service as one file has it; a service is one or several of them, the last one winning."""

    file: YamlFile
    keys: Mapping[str, Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable of a service's environment."""

    name: str
    value: str = field(repr=False)
    place: Place
    unset: tuple[str, ...] = ()
    """Variables in its value that nobody sets."""
    is_reference: bool = False
    """Its whole value is one variable, `${NAME}`."""
    is_exact: bool = True
    """False: YAML reads a number that Compose writes otherwise than it stands there."""
    is_shared: bool = False
    """It stands in an `env_file`, perhaps for other programs."""


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of the host that leads to one of the container."""

    host: int
    inside: int
    address: str
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service that is a gateway, whole."""

    name: str
    place: Place
    image: Scalar | None
    variables: Mapping[str, Variable]
    ports: Sequence[PublishedPort]
    mounts: Mounts
    other_keys: Mapping[str, Place]
    restarts: bool
    """Whether the engine starts it again by itself, also after a stop of the engine."""


class ServiceReader:
    """Puts a service together from its layers."""

    def __init__(self, layers: Sequence[Layer], lookup: Lookup, secrets: Callable[[str], SecretSource]) -> None:
        self._layers = layers
        self._lookup = lookup
        self._secret = secrets

    def read(self, name: str, place: Place) -> Service:
        """All of it. Raises `ComposeError`."""
        others = {key: entry.place for layer in self._layers for key, entry in layer.keys.items() if key not in _READ}
        return Service(
            name=name,
            place=place,
            image=self.image(),
            variables={each.name: each for layer in (self._from_files, self._from_environment) for each in layer()},
            ports=[port for layer, node in self._all("ports") for port in self._ports(layer.file, node)],
            mounts=Mounts(
                secrets=dict(self._secrets()),
                binds={
                    inside: path for layer, node in self._all("volumes") for inside, path in self._binds(layer, node)
                },
            ),
            other_keys={key: where for key, where in others.items() if not key.startswith("x-")},
            restarts=self._restarts(),
        )

    def image(self) -> Scalar | None:
        """The name of its image; None where it has none, as one that is built may."""
        entries = [(layer.file, layer.keys["image"]) for layer in self._layers if "image" in layer.keys]
        return self.text(entries[-1][0], entries[-1][1].node, "image") if entries else None

    def depends_on(self) -> Iterator[tuple[str, Place]]:
        """The services that Compose starts before it."""
        for layer, node in self._all("depends_on"):
            if isinstance(node, MappingNode):
                for name, entry in layer.file.mapping(node, "depends_on").items():
                    yield name, entry.place
            else:
                for each in layer.file.sequence(node, "depends_on"):
                    scalar = layer.file.scalar(each, "an entry of depends_on")
                    yield scalar.text or "", scalar.place

    # ------------------------------------------------------------------ variables

    def _from_files(self) -> Iterator[Variable]:
        for layer, node in self._all("env_file"):
            items = [node] if isinstance(node, ScalarNode) else layer.file.sequence(node, "env_file")
            for each in items:
                path, is_required, is_raw = self._env_file(layer, each)
                if path.exists() or is_required:
                    for name, line in read_env_file(path, self._lookup, is_raw=is_raw).items():
                        yield Variable(
                            name=name,
                            value=line.filled.text,
                            place=line.place,
                            unset=line.filled.unset,
                            is_reference=line.filled.is_reference,
                            is_shared=True,
                        )

    def _env_file(self, layer: Layer, node: Node) -> tuple[Path, bool, bool]:
        keys = (
            layer.file.mapping(node, "an entry of env_file")
            if isinstance(node, MappingNode)
            else {"path": Entry(layer.file.place(node), node)}
        )
        said = {name: self.text(layer.file, entry.node, f"{name} of env_file").text for name, entry in keys.items()}
        if not said.get("path"):
            raise ComposeError(layer.file.place(node), "an entry of env_file names no file")
        path = layer.file.directory / in_home(said["path"] or "")
        return path, (said.get("required") or "true").lower() != "false", said.get("format") == "raw"

    def _from_environment(self) -> Iterator[Variable]:
        for layer, node in self._all("environment"):
            if isinstance(node, SequenceNode):
                for each in node.value:
                    yield self._listed(layer.file, each)
            else:
                for name, entry in layer.file.mapping(node, "environment").items():
                    scalar = layer.file.scalar(entry.node, f"{shown_name(name)} of environment")
                    yield self._variable(name, scalar, entry.place)

    def _listed(self, file: YamlFile, node: Node) -> Variable:
        scalar = file.scalar(node, "an entry of environment")
        name, equals, value = (scalar.text or "").partition("=")
        if not _NAME.fullmatch(name):
            raise ComposeError(scalar.place, "an entry of environment must be NAME=VALUE")
        return self._variable(name, Scalar(value if equals else None, scalar.place), scalar.place)

    def _variable(self, name: str, scalar: Scalar, place: Place) -> Variable:
        if scalar.text is None:
            outer = self._lookup(name) or Filled("")
            return Variable(name=name, value=outer.text, place=place, unset=outer.unset)
        try:
            filled = fill(scalar.text, self._lookup)
        except VariableError as error:
            raise ComposeError(place, f"{shown_name(name)} {error}") from None
        return Variable(
            name=name,
            value=filled.text,
            place=place,
            unset=filled.unset,
            is_reference=filled.is_reference,
            is_exact=scalar.is_exact,
        )

    # ------------------------------------------------------------------ ports and files

    def _ports(self, file: YamlFile, node: Node) -> Iterator[PublishedPort]:
        for each in file.sequence(node, "ports"):
            place = file.place(each)
            if isinstance(each, MappingNode):
                keys = file.mapping(each, "an entry of ports")
                said = {name: self.text(file, entry.node, "ports").text or "" for name, entry in keys.items()}
                parts = said.get("host_ip", ""), said.get("published", ""), said.get("target", "")
            else:
                text = (self.text(file, each, "an entry of ports").text or "").partition("/")[0]
                parts = _split(text)
            yield from _published(*parts, place)

    def _secrets(self) -> Iterator[tuple[str, SecretSource]]:
        for layer, node in self._all("secrets"):
            for each in layer.file.sequence(node, "secrets"):
                if isinstance(each, MappingNode):
                    keys = layer.file.mapping(each, "an entry of secrets")
                    said = {key: self.text(layer.file, entry.node, "secrets").text for key, entry in keys.items()}
                    source, target = said.get("source") or "", said.get("target") or said.get("source") or ""
                else:
                    source = target = self.text(layer.file, each, "an entry of secrets").text or ""
                yield target if target.startswith("/") else f"/run/secrets/{target}", self._secret(source)

    def _binds(self, layer: Layer, node: Node) -> Iterator[tuple[str, Path]]:
        for each in layer.file.sequence(node, "volumes"):
            if isinstance(each, MappingNode):
                keys = layer.file.mapping(each, "an entry of volumes")
                said = {
                    name: self.text(layer.file, keys[name].node, "volumes").text or ""
                    for name in ("type", "source", "target")
                    if name in keys
                }
                if said.get("type") != "bind":
                    continue
                source, inside = said.get("source", ""), said.get("target", "")
            else:
                parts = (self.text(layer.file, each, "an entry of volumes").text or "").split(":")
                source, inside = parts[:2] if len(parts) >= _SHORT_BIND else ("", "")
            if source.startswith((".", "/", "~")) and inside.startswith("/"):
                yield inside.rstrip("/") or "/", layer.file.directory / in_home(source)

    def _restarts(self) -> bool:
        said = [self.text(layer.file, node, "restart").text for layer, node in self._all("restart")]
        return bool(said) and said[-1] == "always"

    # ------------------------------------------------------------------ inside

    def _all(self, key: str) -> Iterator[tuple[Layer, Node]]:
        """What each layer has under this key, the first one first."""
        return ((layer, layer.keys[key].node) for layer in self._layers if key in layer.keys)

    def text(self, file: YamlFile, node: Node, what: str) -> Scalar:
        """One value with its variables filled in. Raises `ComposeError`."""
        scalar = file.scalar(node, what)
        try:
            return Scalar(scalar.text and fill(scalar.text, self._lookup).text, scalar.place)
        except VariableError as error:
            raise ComposeError(scalar.place, f"{what} {error}") from None


def _split(text: str) -> tuple[str, str, str]:
    """Address, host port, port inside: `127.0.0.1:4001:4003`, `4001:4003`, `4003`."""
    before, _, inside = text.rpartition(":")
    address, _, host = before.rpartition(":")
    return address.strip("[]"), host, inside


def _published(address: str, host: str, inside: str, place: Place) -> Iterator[PublishedPort]:
    outer, inner = _range(host), _range(inside)
    if outer and inner and len(outer) == len(inner) <= _MOST_PORTS:
        for at, port in enumerate(outer):
            yield PublishedPort(port, inner[at], address, place)


def _range(text: str) -> range:
    """The ports that are meant; none where it can't be told, or the engine chooses."""
    found = _PORTS.fullmatch(text)
    return range(int(found[1]), int(found[2] or found[1]) + 1) if found else range(0)
