"""Where the settings' values come from: the file that `GATEWAY_MANAGER_CONFIG` names, which source gave what, and what is ignored.

    argument > environment > file > default

A variable with our prefix that names no setting, and one that names a setting but lacks the prefix, are not obeyed; each is
told as a sentence that says what was probably meant. It knows the class of the settings by its fields alone.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, SecretStr
from pydantic_settings import BaseSettings, TomlConfigSettingsSource

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.system.home_paths import in_home
from spreadpilot_core.ibkr.system.secret_names import is_secret_name

PREFIX = "gateway_manager_"
CONFIG = f"{PREFIX}config"
HIDDEN = "set (hidden)"
_FOR_TESTS = f"{PREFIX}test_"
"""What a user tells the tests of this project."""
_USER_INFO = re.compile(r"://[^/?#\s]*@")
_SECRET_IN_QUERY = re.compile(r"[?&;]([^=&;#\s]+)=")

SettingsClass = type[BaseSettings]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one setting's value comes from."""

    source: str
    """`argument`, `environment`, `file` or `default`."""
    name: str | None = None
    """The variable's or the file's name."""

    @property
    def where(self) -> str:
        """As a person reads it."""
        return self.source if self.name is None else f"{self.source} {self.name}"

    @property
    def is_elsewhere(self) -> bool:
        """Whether whoever called does not see the value in the call itself."""
        return self.name is not None


class TomlFile(TomlConfigSettingsSource):
    """The file's settings; none when no file is named.

    Raises:
        SettingsError: it is named and can't be read, is no TOML, or names something that is no setting.
    """

    def __init__(self, settings_class: SettingsClass) -> None:
        path = config_file()
        if path is not None:
            _check(_content(path), settings_class, path)
        super().__init__(settings_class, toml_file=path)


def config_file() -> Path | None:
    """The file that the environment names."""
    named = next((value for name, value in os.environ.items() if name.lower() == CONFIG), "")
    return in_home(named) if named else None


def origin_of(settings_class: SettingsClass, name: str, arguments: Mapping[str, Any]) -> Origin | None:
    """Which source gives this setting its value; None when there is no such setting."""
    if name not in settings_class.model_fields:
        return None
    if name in arguments:
        return Origin("argument")
    given = {variable.lower(): variable for variable, value in os.environ.items() if value}
    for variable in variables(settings_class, name):
        if variable.lower() in given:
            return Origin("environment", given[variable.lower()])
    path = config_file()
    return Origin("file", str(path)) if path is not None and name in _content(path) else Origin("default")


def variables(settings_class: SettingsClass, name: str) -> list[str]:
    """The variables from which a setting is read, the one that wins first."""
    alias = settings_class.model_fields[name].validation_alias
    names = [str(each) for each in alias.choices] if isinstance(alias, AliasChoices) else [f"{PREFIX}{name}"]
    return list(dict.fromkeys(each.upper() for each in names))


def ignored(settings_class: SettingsClass) -> list[str]:
    """A sentence for each variable of the environment that looks like a setting of ours and is not obeyed."""
    obeyed = {each.lower() for name in settings_class.model_fields for each in variables(settings_class, name)}
    return [
        sentence
        for variable in sorted(os.environ)
        if variable.lower() not in obeyed
        for sentence in _ignored(settings_class, variable)
    ]


def _ignored(settings_class: SettingsClass, variable: str) -> Iterator[str]:
    plain = variable.lower()
    if plain in settings_class.model_fields:
        yield f"{variable} is not obeyed: GATEWAY_MANAGER_{variable.upper()} was meant?"
    elif plain.startswith(PREFIX) and plain != CONFIG and not plain.startswith(_FOR_TESTS):
        meant = _similar(settings_class, plain.removeprefix(PREFIX))
        hint = f"GATEWAY_MANAGER_{meant.upper()} was meant?" if meant else "`gateway-manager settings show` lists all."
        yield f"{variable} is not obeyed, for there is no such setting: {hint}"


def masked(name: str, value: Any) -> Any:
    """The value as it may be shown: nothing of a secret, nor of an address with a password in it."""
    if value is None or value == "":
        return value
    if isinstance(value, SecretStr) or is_secret_name(name):
        return HIDDEN
    text = str(value)
    queried = any(is_secret_name(each) for each in _SECRET_IN_QUERY.findall(text)) if "?" in text else False
    return HIDDEN if _USER_INFO.search(text) or queried else value


def is_secret_field(settings_class: SettingsClass, name: str) -> bool:
    """Whether this setting is never shown."""
    field = settings_class.model_fields.get(name)
    return field is not None and "SecretStr" in str(field.annotation)


def masked_unknown(settings_class: SettingsClass, name: str, value: Any) -> Any:
    """What may be shown of the value of what is no setting: nothing where a secret one was meant."""
    meant = _similar(settings_class, name.lower().removeprefix(PREFIX))
    is_hidden = (meant is not None and is_secret_field(settings_class, meant)) or "notif" in name.lower()
    return HIDDEN if is_hidden and value not in (None, "") else masked(name, value)


def _content(path: Path) -> dict[str, Any]:
    setting, allowed = CONFIG.upper(), "must name a TOML file of settings that can be read"
    if path.exists() and not path.is_file():  # a FIFO would be waited for
        raise SettingsError(setting, str(path), f"{allowed} (it is no file)")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(setting, str(path), f"{allowed} ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it is no UTF-8 text of settings"
        raise SettingsError(setting, str(path), f"{allowed} ({reason})") from None


def _check(content: Mapping[str, Any], settings_class: SettingsClass, path: Path) -> None:
    for name, value in content.items():
        if name not in settings_class.model_fields:
            meant = _similar(settings_class, name.lower().removeprefix(PREFIX))
            hint = f" ({meant} was meant?)" if meant else ""
            raise SettingsError(
                name, masked_unknown(settings_class, name, value), f"{path} may hold settings alone{hint}"
            )


def _similar(settings_class: SettingsClass, name: str) -> str | None:
    close = difflib.get_close_matches(name, list(settings_class.model_fields), n=1, cutoff=0.75)
    return close[0] if close else None
