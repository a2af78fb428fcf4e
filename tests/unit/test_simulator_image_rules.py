from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.simulator.image_rules import Order, Refused, filled, java_properties, read_order


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "ibc").mkdir()
    (tmp_path / "Jts").mkdir()
    return tmp_path


def old(home: Path, **given: str) -> Order:
    base = {
        "HOME": str(home),
        "IBC_INI": f"{home}/ibc/config.ini",
        "TRADING_MODE": "paper",
        "TWS_USERID": "joe",
        "TWS_SETTINGS_PATH": f"{home}/settings",
    }
    return read_order(base | given)


def new(home: Path, **given: str) -> Order:
    base = {
        "HOME": str(home),
        "IBC_APP_DIR": f"{home}/ibcontroller",
        "IBC_TRADING_MODE": "paper",
        "IBC_USERID": "joe",
        "IBC_TWS_SETTINGS_PATH": f"{home}/settings",
    }
    return read_order(base | given)


def write(home: Path, content: bytes) -> str:
    file = home / "secret"
    file.write_bytes(content)
    return str(file)


def refusal(caught: pytest.ExceptionInfo[Refused]) -> tuple[int, str]:
    return caught.value.exit_code, caught.value.lines[-1]


# ---------------------------------------------------------------------------------------------- the older generation


@pytest.mark.parametrize("mode", ["", "PAPER", "both"])
def test_old_wants_one_mode(home: Path, mode: str) -> None:
    """Anything but live and paper ends the container with 1 (two gateways in one container are not simulated)."""
    with pytest.raises(Refused) as caught:
        old(home, TRADING_MODE=mode, TWS_PASSWORD="x")
    assert refusal(caught) == (1, f".> Invalid TRADING_MODE: {mode}")


def test_old_refuses_a_password_given_twice(home: Path) -> None:
    """Value and file are exclusive; an empty value is none."""
    file = write(home, b"pw\n")
    with pytest.raises(Refused) as caught:
        old(home, TWS_PASSWORD="x", TWS_PASSWORD_FILE=file)
    assert refusal(caught) == (1, "error: both TWS_PASSWORD and TWS_PASSWORD_FILE are set (but are exclusive)")
    assert old(home, TWS_PASSWORD="", TWS_PASSWORD_FILE=file).password == "pw"


def test_old_refuses_a_missing_file(home: Path) -> None:
    """The shell can't read it."""
    with pytest.raises(Refused) as caught:
        old(home, TWS_PASSWORD_FILE="/nonexistent")
    assert refusal(caught)[0] == 1


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (rb"a\\b", r"a\b"),
        (rb"a\b", "ab"),
        (b"caf\\u00e9", "caf\u00e9"),
        (b"caf\xc3\xa9", "caf\u00c3\u00a9"),
        (b"\\uD83D\\uDE00", "\U0001f600"),
        (b"  x y  \n", "x y"),
        (b"\"q'", "\"q'"),
        (b"a=b#c!d:e", "a=b#c!d:e"),
        (b"=x", "=x"),
    ],
)
def test_old_reads_the_password_as_java_properties(home: Path, content: bytes, password: str) -> None:
    """Escapes, Latin-1 and trimming, exactly as IBC's login form receives it."""
    assert old(home, TWS_PASSWORD_FILE=write(home, content)).password == password


def test_old_writes_the_password_into_its_own_file(home: Path) -> None:
    """In clear, for its user alone: the image's business, and gone with the container."""
    old(home, TWS_PASSWORD_FILE=write(home, b"pw"))
    config = home / "ibc/config.ini"
    assert b"IbPassword=pw\n" in config.read_bytes()
    assert config.stat().st_mode & 0o777 == 0o600


def test_old_defaults_are_the_images_own(home: Path) -> None:
    """What the compose file would say is not said here: a conflict hangs, orders are allowed, no restart."""
    order = old(home, TWS_PASSWORD="x")
    assert order.existing_session_action == "manual"
    assert (order.read_only, order.auto_restart_time, order.relogin_after_missed) == (False, None, False)


def test_old_settings(home: Path) -> None:
    """A path whose parent exists is made; jts.ini is written once and never again."""
    order = old(home, TWS_PASSWORD="x", TIME_ZONE="Europe/Zurich")
    ini = home / "settings/jts.ini"
    assert order.settings_dir == home / "settings"
    assert "TimeZone=Europe/Zurich" in ini.read_text()
    old(home, TWS_PASSWORD="x", TIME_ZONE="Asia/Hong_Kong")
    assert "Europe/Zurich" in ini.read_text()
    with pytest.raises(Refused, match="cannot create directory"):
        old(home, TWS_PASSWORD="x", TWS_SETTINGS_PATH=f"{home}/no/parent")


def test_old_wants_the_heap_without_a_unit(home: Path) -> None:
    """The script adds the unit itself."""
    with pytest.raises(Refused, match="768mm"):
        old(home, TWS_PASSWORD="x", JAVA_HEAP_SIZE="768m")


def test_old_gives_restart_times_in_quotes_no_meaning(home: Path) -> None:
    """Quotes are literal there."""
    assert old(home, TWS_PASSWORD="x", AUTO_RESTART_TIME='"11:45 PM"').auto_restart_time is None
    assert old(home, TWS_PASSWORD="x", AUTO_RESTART_TIME="11:45 PM").auto_restart_time == "11:45 PM"


def test_old_reports_a_bad_setting_with_its_own_code(home: Path) -> None:
    """1105 modulo 256."""
    with pytest.raises(Refused) as caught:
        old(home, TWS_PASSWORD="x", EXISTING_SESSION_DETECTED_ACTION="always")
    assert caught.value.exit_code == 81


# ---------------------------------------------------------------------------------------------- the newer generation


@pytest.mark.parametrize("names", [{"IBC_TRADING_MODE": ""}, {"IBC_TRADING_MODE": "", "TRADING_MODE": "paper"}])
def test_new_knows_no_old_names(home: Path, names: dict[str, str]) -> None:
    """An old name is neither honoured nor warned about."""
    with pytest.raises(Refused) as caught:
        new(home, IBC_PASSWORD="x", **names)
    assert refusal(caught) == (1, ".> Invalid IBC_TRADING_MODE: ")


def test_new_prefers_the_file(home: Path) -> None:
    """Both set is no error there."""
    assert new(home, IBC_PASSWORD="x", IBC_PASSWORD_FILE=write(home, b" pw \n")).password == "pw"


def test_new_falls_back_from_an_empty_file(home: Path) -> None:
    """To the value, else to nothing."""
    empty = write(home, b" \n")
    assert new(home, IBC_PASSWORD="x", IBC_PASSWORD_FILE=empty).password == "x"
    with pytest.raises(Refused) as caught:
        new(home, IBC_PASSWORD_FILE=empty)
    assert refusal(caught) == (78, "error: credentials not found")


def test_new_ends_with_78_without_its_file(home: Path) -> None:
    """It says which file, and the system's own words."""
    with pytest.raises(Refused) as caught:
        new(home, IBC_PASSWORD_FILE="/nonexistent")
    assert refusal(caught) == (
        78,
        "error: IBC_PASSWORD_FILE=/nonexistent: [Errno 2] No such file or directory: '/nonexistent'",
    )


def test_new_breaks_over_bytes_that_are_no_utf8(home: Path) -> None:
    """A traceback and 1."""
    with pytest.raises(Refused) as caught:
        new(home, IBC_PASSWORD_FILE=write(home, b"caf\xe9"))
    assert refusal(caught)[0] == 1


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ('a\\b"$#', 'a\\b"$#'),
        ("{{x}}", "{x}"),
        ("{userid}", "joe"),
        ("{0}{x}{", "{0}{x}{"),
        ("a{program}b", "agatewayb"),
    ],
)
def test_new_fills_in_braces(text: str, typed: str) -> None:
    """Settings' names are replaced and doubled braces halved; nothing else is touched."""
    assert filled(text, {"userid": "joe", "program": "gateway"}) == typed


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"IBC_EXISTING_SESSION_ACTION": "Primary"}, 78),
        ({"IBC_READ_ONLY_API": "maybe"}, 78),
        ({"IBC_MFA_TIMEOUT_ACTION": "stay"}, 78),
        ({"IBC_ACCEPT_INCOMING_CONNECTIONS": "ACCEPT"}, 78),
        ({"IBC_JAVA_HEAP_SIZE": "768"}, 69),
    ],
)
def test_new_is_strict(home: Path, given: dict[str, str], code: int) -> None:
    """Lower-case words, booleans that are some, a heap with its unit."""
    with pytest.raises(Refused) as caught:
        new(home, IBC_PASSWORD="x", **given)
    assert caught.value.exit_code == code


def test_new_takes_what_the_manager_says(home: Path) -> None:
    """Every setting that matters here arrives."""
    order = new(
        home,
        IBC_PASSWORD="x",
        IBC_READ_ONLY_API="Yes",
        IBC_EXISTING_SESSION_ACTION="secondary",
        IBC_AUTO_RESTART_TIME="11:45 PM",
        IBC_TIME_ZONE="Europe/Zurich",
        IBC_JAVA_HEAP_SIZE="4g",
        IBC_MFA_TIMEOUT_ACTION="exit",
    )
    assert (order.read_only, order.existing_session_action) == (True, "secondary")
    assert (order.auto_restart_time, order.time_zone) == ("11:45 PM", "Europe/Zurich")


@pytest.mark.parametrize("make", [old, new])
def test_a_screen_password_given_twice_ends_either(home: Path, make: object) -> None:
    """The scripts around the controllers still read that one, with the old rule."""
    assert callable(make)
    with pytest.raises(Refused, match="both VNC_SERVER_PASSWORD and"):
        make(home, VNC_SERVER_PASSWORD="a", VNC_SERVER_PASSWORD_FILE="/b")


def test_no_password_in_a_repr(home: Path) -> None:
    """An order that is printed by accident gives nothing away."""
    assert "hunter2" not in repr(new(home, IBC_PASSWORD="hunter2"))


# ---------------------------------------------------------------------------------------------- properties


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), max_size=40))
def test_escaped_text_comes_back_from_java(text: str) -> None:
    """Whatever is written with escapes is read as it was."""
    units = text.encode("utf-16-be")
    escaped = "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
    assert java_properties(b"k=" + escaped.encode())["k"] == text.strip(" ")


def test_comments_continuations_and_separators() -> None:
    """The corners of the format."""
    read = java_properties(b"# c\n! d\na = 1 \\\n   2\n\nb:3\nc 4\nd\ne=x\\\\\nf=y")
    assert read == {"a": "1 2", "b": "3", "c": "4", "d": "", "e": "x\\", "f": "y"}
