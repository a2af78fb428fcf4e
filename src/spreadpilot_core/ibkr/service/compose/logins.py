r"""The login that a service's variables give: the user's name and the password as IBKR's form got it.

IBC copies a password into a file of Java properties, where a backslash begins an escape and blanks at the ends are cut off; who
had a backslash in a password wrote two. What is stored here is what arrived, since each launch writes it anew for its controller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from spreadpilot_core.ibkr.credentials.courier.encoding import Controller, untypable
from spreadpilot_core.ibkr.model.users import canonical_user
from spreadpilot_core.ibkr.service.compose.places import Place
from spreadpilot_core.ibkr.service.compose.services import Service
from spreadpilot_core.ibkr.service.compose.values import Value, Values

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.?)", re.DOTALL)
_NAMED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_REFERENCE = re.compile(r"[A-Z0-9_]*(USER|LOGIN|PASS|PWD|SECRET)[A-Z0-9_]*", re.ASCII)
"""Names of variables that are surely none of the words behind a dollar sign in a password."""
_TYPABLE = "x"
"""A password that every controller can type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLogin:
    """One IBKR user with its password."""

    user: str
    user_place: Place
    password: str | None = field(repr=False)
    """None: it could not be read here."""
    password_name: str
    password_place: Place
    why_not: str = ""
    """Why the password could not be read."""

    @property
    def canonical(self) -> str:
        """The user as IBKR compares it."""
        return canonical_user(self.user)


def find_login(values: Values, service: Service, *, for_paper: bool) -> FoundLogin | None:
    """The login, or None, with what is wrong among the findings. `for_paper`: the second one of the trading mode `both`."""
    suffix = "_PAPER" if for_paper else ""
    user_names = (f"TWS_USERID{suffix}", f"IBC_USERID{suffix}")
    password_names = (f"TWS_PASSWORD{suffix}", f"IBC_PASSWORD{suffix}")
    user = values.find(*user_names)
    password = values.find(*password_names, or_none=True)
    for value, names in ((user, user_names), (password, password_names)):
        if value is None:
            values.refuse(*_missing(service, names, for_paper=for_paper))
    if user is None or password is None or not _is_sound(values, user) or not _is_sound(values, password):
        return None
    name = user.text.strip()
    controller: Controller = "ibcontroller" if password.is_ibcontrollers else "ibc"
    text = None if password.why_not else _as_typed(password)
    refused, why = _untypable(name, text)
    at = password if refused == "password" else user
    if controller in why:
        values.refuse(at.place, f"this login can't be typed: {why[controller]}.")
        return None
    for other, reason in why.items():
        values.remark(at.place, f"images with {other} can't type this login: {reason}.")
    if controller == "ibc" and "\\" in password.text:
        values.remark(
            password.place, f"{password.name} is read as IBC reads it: a backslash begins an escape, two are one."
        )
    return FoundLogin(
        user=name,
        user_place=user.place,
        password=text,
        password_name=password.name,
        password_place=password.place,
        why_not=password.why_not,
    )


def _missing(service: Service, names: tuple[str, str], *, for_paper: bool) -> tuple[Place, str]:
    """Where the entry stands, if there is one, and why it gives nothing."""
    entries = [service.variables[name] for name in names if name in service.variables]
    unset = [each for entry in entries for each in entry.unset if entry.is_reference or _REFERENCE.fullmatch(each)]
    why = ""
    if unset:
        verb = "is" if len(unset) == 1 else "are"
        why = f": {', '.join(unset)} {verb} set neither in this shell nor in .env (or the file that --env-file names)"
    wanted = f"{' or '.join(names)} is missing or empty{', and the trading mode is both' if for_paper else ''}{why}."
    return entries[0].place if entries else service.place, wanted


def _is_sound(values: Values, value: Value) -> bool:
    """Whether the text is surely the one that the image got."""
    if value.unset:
        values.refuse(
            value.place,
            f"{value.name} holds a dollar sign that names a variable which nobody sets: write $$ for a dollar sign.",
        )
    elif not value.is_exact:
        values.refuse(
            value.place,
            f"{value.name} has no quotes, and YAML reads its digits as a number that it writes otherwise: add quotes.",
        )
    return not value.unset and value.is_exact


def _untypable(user: str, password: str | None) -> tuple[str, dict[Controller, str]]:
    """Which of the two some controllers can't type, and why not."""
    reasons = untypable(user, _TYPABLE)
    if reasons or password is None:
        return "user", reasons
    return "password", untypable(user, password)


def _as_typed(password: Value) -> str:
    if password.is_ibcontrollers:
        return password.text
    plain = _ESCAPE.sub(_unescaped, password.text).strip(" \t\r\n\f")
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _unescaped(escape: re.Match[str]) -> str:
    what = escape[1]
    return chr(int(what[1:], 16)) if len(what) > 1 else _NAMED.get(what, what)
