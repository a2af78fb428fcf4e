from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.credentials.courier import encoding
from spreadpilot_core.ibkr.credentials.courier.encoding import UntypableError, check_user, encode
from support.controllers import ibc_reads, ibcontroller_reads, java_properties

PRINTABLE = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
ODD = st.sampled_from(
    [*"\\\"'$#!=:{}%`&| \u00a0\u2003\ufeffäÿ€日𝄞", "\\u0041", "{userid}", "{{", "}}", "{0}", "{password!r}", "{x}"]
)
PASSWORDS = st.one_of(
    st.text(PRINTABLE, min_size=1, max_size=128),
    st.lists(ODD, min_size=1, max_size=40).map("".join),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128),
)
SETTINGS = {name: f"<{name}>" for name in encoding._SETTINGS}


@given(PASSWORDS)
def test_ibc_types_the_password_as_it_is(password: str) -> None:
    """Whatever is not refused for IBC comes out of a Java properties reader unchanged, and only outer blanks are refused."""
    try:
        content = encode(password, "ibc")
    except UntypableError:
        assert len(password) > 128 or password != password.strip(" ")
        return
    assert ibc_reads(content) == password


@given(PASSWORDS)
def test_ibcontroller_types_the_password_as_it_is(password: str) -> None:
    """Whatever is not refused for ibcontroller passes its template formatter unchanged."""
    try:
        content = encode(password, "ibcontroller")
    except UntypableError:
        outer_blank = password != password.strip()
        assert len(password) > 128 or outer_blank or "{" in password or "}" in password
        return
    assert ibcontroller_reads(content, SETTINGS) == password


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="{}"), min_size=1, max_size=128))
def test_every_ascii_password_without_braces_is_taken_by_both(password: str) -> None:
    """No password of visible ASCII characters is refused, but for ibcontroller's braces."""
    assert ibc_reads(encode(password, "ibc")) == password
    assert ibcontroller_reads(encode(password, "ibcontroller"), SETTINGS) == password


@pytest.mark.parametrize("password", ["a{b", "}a{", "{0}", "{x}", "{ userid}", "{}", "{Userid}"])
def test_braces_that_ibcontroller_leaves_alone_are_taken(password: str) -> None:
    """Single braces and unknown names are no reason to refuse."""
    assert ibcontroller_reads(encode(password, "ibcontroller"), SETTINGS) == password


@pytest.mark.parametrize(
    "password", ["a{{b", "a}}b", "x{userid}", "{password!r}", "{program:>9}", "{log_dir.x}", "{instance[0]}"]
)
def test_braces_that_ibcontroller_replaces_are_refused(password: str) -> None:
    """What its formatter would replace can't be escaped, so it is refused, and the sentence doesn't quote it."""
    with pytest.raises(UntypableError) as refused:
        encode(password, "ibcontroller")
    assert password not in str(refused.value)
    assert ibc_reads(encode(password, "ibc")) == password


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "is empty"),
        (" pass", "blank"),
        ("pass ", "blank"),
        ("pass\n", "control character"),
        ("pa\0ss", "control character"),
        ("pa\tss", "control character"),
        ("pa\u2028ss", "line break"),
        ("pa\ud800ss", "half a character"),
        ("x" * 129, "129 characters"),
    ],
)
@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
def test_what_no_form_takes_is_refused(password: str, reason: str, controller: encoding.Controller) -> None:
    """Both controllers refuse what can't arrive, each with its reason."""
    with pytest.raises(UntypableError, match=reason):
        encode(password, controller)


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
def test_the_longest_password_is_taken(controller: encoding.Controller) -> None:
    """128 characters are allowed, whatever they take as bytes."""
    assert encode("𝄞" * 128, controller)


def test_a_user_name_goes_as_it_is_or_not_at_all() -> None:
    """A user name travels in the environment, so one that needs escaping is refused."""
    check_user("edemo", "ibc")
    check_user("edemo", "ibcontroller")
    check_user("edé", "ibcontroller")
    for user in ("a\\b", "é", "a "):
        with pytest.raises(UntypableError):
            check_user(user, "ibc")


def test_the_judge_reads_properties_as_java_does() -> None:
    """The reader that judges the encoding knows separators, comments, continuation and escapes."""
    assert java_properties(b"# no\n! no\n a = 1\\\n  2\nb:=\\u00e9\\t\\q\nc d\\=e\n\xe9=\xe8\\\\\n") == {
        "a": "12",
        "b": "=é\tq",
        "c": "d=e",
        "é": "è\\",
    }
