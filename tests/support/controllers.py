"""How the two controllers read a password file, written from their own rules: the judge of `credentials.encoding`."""

from __future__ import annotations

from collections.abc import Iterator

_BLANKS = " \t\f"


def ibc_reads(content: bytes) -> str:
    """What IBC types: the image copies the file's text into `config.ini`, Java loads that as properties, IBC trims it."""
    shell_value = content.replace(b"\0", b"").rstrip(b"\n")  # $(< file)
    ini = b"IbLoginId=someone\nIbPassword=" + shell_value + b"\nTradingMode=paper\n"
    return java_properties(ini)["IbPassword"].strip("".join(map(chr, range(0x21))))  # String.trim()


def java_properties(content: bytes) -> dict[str, str]:
    """`java.util.Properties.load(InputStream)`: Latin-1, logical lines, escapes."""
    found = {}
    for line in _logical_lines(content.decode("latin-1")):
        key, value = _split(line)
        found[_unescape(key)] = _unescape(value)
    return found


def ibcontroller_reads(content: bytes, settings: dict[str, str]) -> str:
    """What ibcontroller types: the file as UTF-8, stripped, then `str.format` with the settings while that changes it."""
    value = content.decode("utf-8").strip()
    while "{" in value and "}" in value:
        try:
            formatted = value.format(**settings)
        except Exception:  # noqa: BLE001  # whatever goes wrong leaves the value as it is
            return value
        if formatted == value:
            return value
        value = formatted
    return value


def _logical_lines(text: str) -> Iterator[str]:
    pending = ""
    for natural in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        line = natural.lstrip(_BLANKS)
        if not pending and (not line or line[0] in "#!"):
            continue
        trailing = len(line) - len(line.rstrip("\\"))
        if trailing % 2:
            pending += line[:-1]
            continue
        yield pending + line
        pending = ""
    if pending:
        yield pending


def _split(line: str) -> tuple[str, str]:
    at, escaped = 0, False
    while at < len(line) and (escaped or line[at] not in "=:" + _BLANKS):
        escaped = line[at] == "\\" and not escaped
        at += 1
    key, rest = line[:at], line[at:].lstrip(_BLANKS)
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(_BLANKS)
    return key, rest


def _unescape(text: str) -> str:
    units: list[int] = []
    characters = iter(text)
    for character in characters:
        if character != "\\":
            units.append(ord(character))
        elif (escaped := next(characters)) == "u":
            units.append(int("".join(next(characters) for _ in range(4)), 16))
        else:
            units.append(ord({"t": "\t", "n": "\n", "r": "\r", "f": "\f"}.get(escaped, escaped)))
    return b"".join(unit.to_bytes(2, "big") for unit in units).decode("utf-16-be")
