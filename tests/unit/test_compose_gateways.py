"""What compose files become: the forms that people write, for both generations of the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.service.compose.places import ComposeError
from support.compose_files import IMAGE, LOGIN, PASSWORD, ComposeFiles, one_service


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ComposeFiles:
    for name in ("TWS_USERID", "TWS_PASSWORD", "TRADING_MODE", "TZ", "TIME_ZONE", "IBC_USERID"):
        monkeypatch.delenv(name, raising=False)
    return ComposeFiles(tmp_path)


# ---------------------------------------------------------------------------------------------- whole files


def test_the_images_sample_with_its_env_file(compose: ComposeFiles) -> None:
    """Every variable is named in the sample, most of them empty: those are silent, and what is set is taken over."""
    found = compose.read(
        """\
        name: algo-trader
        services:
          ib-gateway:
            restart: always
            build:
              context: ./stable
            image: ghcr.io/gnzsnz/ib-gateway:stable
            environment:
              TWS_USERID: ${TWS_USERID}
              TWS_PASSWORD: ${TWS_PASSWORD}
              TRADING_MODE: ${TRADING_MODE:-paper}
              TWS_USERID_PAPER: ${TWS_USERID_PAPER:-}
              TWS_PASSWORD_PAPER: ${TWS_PASSWORD_PAPER:-}
              TWS_SETTINGS_PATH: ${TWS_SETTINGS_PATH:-}
              TWS_ACCEPT_INCOMING: ${TWS_ACCEPT_INCOMING:-}
              READ_ONLY_API: ${READ_ONLY_API:-}
              VNC_SERVER_PASSWORD: ${VNC_SERVER_PASSWORD:-}
              TWOFA_TIMEOUT_ACTION: ${TWOFA_TIMEOUT_ACTION:-exit}
              AUTO_RESTART_TIME: ${AUTO_RESTART_TIME:-}
              EXISTING_SESSION_DETECTED_ACTION: ${EXISTING_SESSION_DETECTED_ACTION:-primary}
              TIME_ZONE: ${TIME_ZONE:-Etc/UTC}
              TZ: ${TIME_ZONE:-Etc/UTC}
              JAVA_HEAP_SIZE: ${JAVA_HEAP_SIZE:-}
              SSH_TUNNEL: ${SSH_TUNNEL:-}
            ports:
              - "127.0.0.1:4001:4003"
              - "127.0.0.1:4002:4004"
              - "127.0.0.1:5900:5900"
        """,
        {
            ".env": """\
                TWS_USERID=alice123
                TWS_PASSWORD='p4ss$word #1'
                READ_ONLY_API=no
                AUTO_RESTART_TIME="11:45 PM"
                TIME_ZONE=Europe/Zurich
                JAVA_HEAP_SIZE=1024
                """
        },
    )
    gateway = found.only
    assert gateway.record == {
        "id": "ib-gateway",
        "vault_secret_ref": "ibkr/ib-gateway",
        "enabled": False,
        "gateway": {
            "image": IMAGE,
            "read_only_api": False,
            "existing_session_action": "primary",
            "auto_restart_time": "11:45 PM",
            "time_zone": "Europe/Zurich",
            "java_heap_mib": 1024,
        },
    }
    assert (gateway.login.user, gateway.login.password) == ("alice123", "p4ss$word #1")
    assert gateway.restarts
    assert [each.partition(" ")[0] + each.partition(" ")[2].partition(" ")[0] for each in found.remarks] == [
        "docker-compose.yml:4:restart",
        "docker-compose.yml:5:build",
        "docker-compose.yml:18:TWOFA_TIMEOUT_ACTION",
        "docker-compose.yml:27:port",
    ]


def test_live_and_paper_in_one_container_are_two_followers(compose: ComposeFiles) -> None:
    """Each has its own login, and the port that its clients used, where it may be pinned."""
    found = compose.with_variables(
        f"""\
        TWS_USERID: alice123
        TWS_PASSWORD: {PASSWORD}
        TWS_USERID_PAPER: alicepaper
        TWS_PASSWORD_PAPER: other
        TRADING_MODE: both
        READ_ONLY_API: "yes"
        TIME_ZONE: America/New_York
        """,
        beside="""\
        ports:
          - 127.0.0.1:4101:4003
          - target: 4004
            published: "4102"
            host_ip: 127.0.0.1
        """,
    )
    assert found.problems == []
    live, paper = found.gateways
    assert (live.follower_id, live.trading_mode, live.login.user, live.login.password) == (
        "ib-gateway-live", TradingMode.LIVE, "alice123", PASSWORD,
    )  # fmt: skip
    assert (paper.follower_id, paper.trading_mode, paper.login.user, paper.login.password) == (
        "ib-gateway-paper", TradingMode.PAPER, "alicepaper", "other",
    )  # fmt: skip
    assert live.record["trading_mode"] == "live"
    assert (live.options["port"], paper.options["port"]) == (4101, 4102)
    assert live.options["read_only_api"] is paper.options["read_only_api"] is True


def test_the_newer_generation_is_understood(compose: ComposeFiles) -> None:
    """The names of ibcontroller, a heap with its unit, and a user name from a file."""
    found = compose.with_variables(
        """\
        IBC_USERID_FILE: /run/secrets/user
        IBC_PASSWORD_FILE: /run/secrets/password
        IBC_TRADING_MODE: live
        IBC_READ_ONLY_API: true
        IBC_EXISTING_SESSION_ACTION: secondary
        IBC_AUTO_RESTART_TIME: 10:15 PM
        IBC_TIME_ZONE: Asia/Hong_Kong
        IBC_JAVA_HEAP_SIZE: 2g
        IBC_MFA_TIMEOUT_ACTION: restart
        """,
        {"user.txt": "alice123\n", "password.txt": f"  {PASSWORD}\n"},
        beside="""\
        secrets:
          - user
          - source: kept
            target: password
        """,
    )
    assert len(found.problems) == 2  # both secrets are named by the service and by nobody else
    found = compose.read(
        (compose.directory / "docker-compose.yml").read_text()
        + "\nsecrets:\n  user:\n    file: ./user.txt\n  kept:\n    file: password.txt\n"
    )
    assert found.only.options == {
        "image": IMAGE,
        "read_only_api": True,
        "existing_session_action": "secondary",
        "auto_restart_time": "10:15 PM",
        "time_zone": "Asia/Hong_Kong",
        "java_heap_mib": 2048,
    }
    assert (found.only.login.user, found.only.login.password) == ("alice123", PASSWORD)
    assert found.only.trading_mode is TradingMode.LIVE


def test_several_services_anchors_and_extensions(compose: ComposeFiles) -> None:
    """Merge keys, `x-` extensions, `extends`, list form and an override beside it; others are named and left alone."""
    found = compose.read(
        f"""\
        x-base: &base
          image: {IMAGE}
          environment: &variables
            READ_ONLY_API: "no"
            TIME_ZONE: America/New_York
            TZ: America/New_York
        services:
          anna:
            <<: *base
            environment:
              <<: [*variables]
              TWS_USERID: anna1
              TWS_PASSWORD: {PASSWORD}a
              TRADING_MODE: paper
          bert:
            extends: anna
            environment:
              - TWS_USERID=bert1
              - TWS_PASSWORD={PASSWORD}=b
              - JAVA_HEAP_SIZE=512
          cleo:
            extends:
              file: common/base.yml
              service: gateway
          bot:
            image: example/bot:1
            environment: {{BROKEN: "$", SHARED: [1]}}
          other:
            image: ghcr.io/extrange/ibkr:stable
        """,
        {
            "common/base.yml": f"""\
                services:
                  gateway:
                    image: {IMAGE}
                    env_file: vars.env
                    environment: {{READ_ONLY_API: "yes"}}
                """,
            "common/vars.env": f"TWS_USERID=cleo1\nTWS_PASSWORD={PASSWORD}c\nTRADING_MODE=live\nTZ=Etc/UTC\nFOO=1\n",
            "docker-compose.override.yml": "services:\n  bert:\n    environment:\n      JAVA_HEAP_SIZE: 1024\n",
        },
    )
    assert found.problems == []
    assert [(each.follower_id, each.login.user, each.login.password) for each in found.gateways] == [
        ("anna", "anna1", f"{PASSWORD}a"),
        ("bert", "bert1", f"{PASSWORD}=b"),
        ("cleo", "cleo1", f"{PASSWORD}c"),
    ]
    assert [each.options.get("java_heap_mib") for each in found.gateways] == [None, 1024, None]
    assert found.gateways[2].options["read_only_api"] is True
    assert found.gateways[1].login.password_place.line == 19
    assert [(each.name, each.image) for each in found.others] == [
        ("bot", "example/bot:1"),
        ("other", "ghcr.io/extrange/ibkr:stable"),
    ]


def test_the_shell_goes_before_the_env_file(compose: ComposeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Compose; a variable without a value is taken from there too."""
    monkeypatch.setenv("TWS_USERID", "shelluser")
    monkeypatch.setenv("TRADING_MODE", "live")
    found = compose.read(
        one_service("- TWS_USERID=${TWS_USERID}\n- TWS_PASSWORD\n- TRADING_MODE\n- TZ=Etc/UTC\n- READ_ONLY_API=no\n"),
        {".env": f"TWS_USERID=fileuser\nTWS_PASSWORD={PASSWORD}\n"},
    )
    assert (found.only.login.user, found.only.login.password) == ("shelluser", PASSWORD)
    assert found.only.trading_mode is TradingMode.LIVE


@pytest.mark.parametrize(
    "image",
    [IMAGE, "gnzsnz/ib-gateway", "registry.local:5000/mirror/gnzsnz/ib-gateway:10.45.1j", "ghcr.io/gnzsnz/ib-gateway@sha256:" + "a" * 64],
)  # fmt: skip
def test_a_gateway_is_known_by_its_image(compose: ComposeFiles, image: str) -> None:
    """Whatever registry it comes from, with a tag, a digest or neither."""
    found = compose.read(one_service(LOGIN).replace(IMAGE, image))
    assert found.only.options["image"] == image


def test_a_gateway_under_another_name_can_be_named(compose: ComposeFiles) -> None:
    """A build of one's own without an image takes the fleet's; nobody else is imported then."""
    found = compose.read(one_service(LOGIN).replace(f"image: {IMAGE}", "build: ."), named=["ib-gateway"], prefix="b-")
    assert found.only.follower_id == "b-ib-gateway"
    assert "image" not in found.only.options
    with pytest.raises(ComposeError, match="there is no service 'nobody' in it"):
        compose.read(one_service(LOGIN), named=["nobody"])


# ---------------------------------------------------------------------------------------------- passwords


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("plain", "plain"),
        ("'it''s'", "it's"),
        ('"tab\\\\u0041"', "tabA"),  # as IBC reads it
        (r"back\\slash", r"back\slash"),
        (r"'grin\uD83D\uDE00'", "grin😀"),
        ("12345678", "12345678"),
        ("'0123'", "0123"),
        ("a$$b", "a$b"),
        ("'#hash: [x]'", "#hash: [x]"),
        ("ü€", "ü€"),
        ("yes", "yes"),
    ],
)
def test_a_password_is_the_one_that_the_gateway_got(compose: ComposeFiles, written: str, password: str) -> None:
    """Quotes, dollar signs and backslashes are read as YAML, Compose and IBC read them, one after the other."""
    found = compose.with_variables(LOGIN.replace(PASSWORD, written))
    assert found.only.login.password == password
    assert password not in repr(found.only)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "docker-compose.yml:6: TWS_PASSWORD or IBC_PASSWORD is missing or empty"),
        ("${NOBODYS_PASSWORD}", "NOBODYS_PASSWORD is set neither in this shell nor in .env"),
        ("${NOPE}", "docker-compose.yml:6: TWS_PASSWORD or IBC_PASSWORD is missing or empty: NOPE is set neither"),
        ("${NOPE}", "or the file that --env-file names"),
        ("$HUNTER2", "TWS_PASSWORD or IBC_PASSWORD is missing or empty."),
        ("0123", "TWS_PASSWORD has no quotes"),
        ("1_000", "TWS_PASSWORD has no quotes"),
        ("1e5", "TWS_PASSWORD has no quotes"),
        ("hunter2$x", "holds a dollar sign that names a variable which nobody sets"),
        ("'{userid}{{hunter2'", None),
        ('"hunter2\\n"', None),
        ('"hunter2\\a"', "this login can't be typed: the password holds a control character"),
    ],
)
def test_a_doubtful_password_is_refused_by_its_line(compose: ComposeFiles, written: str, why: str | None) -> None:
    """A wrong password costs a login; nothing of it is in the sentence."""
    found = compose.with_variables(LOGIN.replace(PASSWORD, written))
    if why is None:
        assert found.problems == []
    else:
        (problem,) = found.problems
        assert why in problem
        assert problem.startswith("docker-compose.yml:6: ")
        assert "hunter2" not in problem.lower()


@pytest.mark.parametrize(
    "written", ["*hunter2", "!hunter2 x", "[hunter2]", "{hunter2: x}", "hunter2$", "${hunter2", "'hunter2"]
)
def test_a_password_that_is_no_yaml_value_is_refused_without_it(compose: ComposeFiles, written: str) -> None:
    """What a parser would quote is not repeated."""
    with pytest.raises(ComposeError) as refused:
        compose.with_variables(LOGIN.replace(PASSWORD, written))
    assert "docker-compose.yml:" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_password_in_a_mounted_file(compose: ComposeFiles) -> None:
    """A bind of the file or of its directory is as good as a secret."""
    for mounts in ("- ./kept/pw:/run/pw:ro", "- type: bind\n  source: ./kept\n  target: /run"):
        found = compose.with_variables(
            LOGIN.replace(f"TWS_PASSWORD: {PASSWORD}", "TWS_PASSWORD_FILE: /run/pw"),
            {"kept/pw": f"{PASSWORD}\n"},
            beside="volumes:\n" + "".join(f"  {line}\n" for line in mounts.splitlines()),
        )
        assert found.only.login.password == PASSWORD


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("external: true", "the secret is kept elsewhere"),
        ("file: ./missing", "No such file"),
        ("environment: NOBODY_SETS_THIS", "the variable that the secret names is not set"),
    ],
)
def test_a_secret_that_is_not_here_leaves_the_login_to_its_owner(compose: ComposeFiles, secret: str, why: str) -> None:
    """The user and the reason are known; whether that will do is decided by what is stored."""
    text = one_service(
        LOGIN.replace(f"TWS_PASSWORD: {PASSWORD}", "TWS_PASSWORD_FILE: /run/secrets/pw"), "secrets: [pw]"
    )
    login = compose.read(f"{text}\nsecrets:\n  pw:\n    {secret}\n").only.login
    assert (login.user, login.password) == ("alice123", None)
    assert why in login.why_not


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (LOGIN.replace("paper", "PAPER"), "docker-compose.yml:7: TRADING_MODE must be live, paper or both, in small letters."),
        (LOGIN.replace("'no'", "maybe"), "docker-compose.yml:8: READ_ONLY_API must be yes or no."),
        (LOGIN + "TWS_PASSWORD_FILE: /run/x\n", "docker-compose.yml:10: TWS_PASSWORD and TWS_PASSWORD_FILE are both set"),
        (LOGIN + "IBC_USERID: bob1\n", "docker-compose.yml:10: IBC_USERID and TWS_USERID (docker-compose.yml:5) differ"),
        (LOGIN.replace("alice123", "al ice"), "docker-compose.yml:5: this login can't be typed: the user name holds"),
        (LOGIN.replace("paper", "both"), "docker-compose.yml:2: TWS_USERID_PAPER or IBC_USERID_PAPER is missing or empty, and"),
    ],
)  # fmt: skip
def test_what_can_not_be_meant_is_refused_by_its_line(compose: ComposeFiles, variables: str, problem: str) -> None:
    """A trading mode, a lock against orders and a login are never guessed."""
    assert compose.with_variables(variables).problems[0].startswith(problem)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("[]", "1: the compose file must be a mapping"),
        ("a: b", "it has no services"),
        ("services: [x]", "1: services must be a mapping"),
        ("services:\n  a: {image: x}\n  a: {image: y}\n", "3: a is in services twice"),
        ("services:\n\ta: b", "2: it can't be understood as YAML"),
        ("[" * 3000, "it is nested too deeply"),
        ("include: [other.yml]\nservices: {a: {image: x}}", "1: it includes other files"),
        (f"services:\n  a:\n    image: {IMAGE}\n    env_file: nobody.env\n", "nobody.env: there is no such file"),
        (f"services:\n  a:\n    image: {IMAGE}\n    extends: a\n    environment: {{}}\n", None),
        (f"services:\n  a:\n    image: {IMAGE}\n    environment: [hunter2 pw]\n", "4: an entry of environment must be NAME=VALUE"),
        (f"services:\n  a: &a\n    image: {IMAGE}\n    environment: &e {{<<: *e}}\n", "4: environment merges itself"),
    ],
)  # fmt: skip
def test_what_is_no_compose_file_is_said_in_one_sentence(compose: ComposeFiles, text: str, why: str | None) -> None:
    """With the file, and the line where there is one."""
    if why is None:
        assert compose.read(text).gateways == []
        return
    with pytest.raises(ComposeError) as refused:
        compose.read(text)
    assert why in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_aliases_of_aliases_cost_nothing(compose: ComposeFiles) -> None:
    """A file of some lines that stands for a billion entries is read in no time."""
    levels = [f"x-{n}: &m{n}\n  <<: [{', '.join([f'*m{n - 1}'] * 10)}]\n" for n in range(1, 30)]
    text = "x-0: &m0 {TWS_SETTINGS_PATH: /x}\n" + "".join(levels)
    assert compose.read(text + one_service(f"<<: *m29\n{LOGIN}")).only.login.user == "alice123"


# ---------------------------------------------------------------------------------------------- what is remarked on


def test_what_has_no_counterpart_is_said_line_by_line(compose: ComposeFiles) -> None:
    """Each with why; what is empty or for other programs is not."""
    found = compose.with_variables(
        f"""\
        TWS_USERID: alice123
        TWS_PASSWORD: {PASSWORD}
        TWOFA_DEVICE: IB Key
        CUSTOM_CONFIG: ""
        MINIMIZE_MAIN_WINDOW: "yes"
        AUTO_RESTART_TIME: 23:59
        JAVA_HEAP_SIZE: 64
        VNC_SERVER_PASSWORD: {PASSWORD}
        """,
        {"shared.env": f"BOT_TOKEN={PASSWORD}\nTWS_COLD_RESTART=23:00\n"},
        beside="""\
        env_file: [shared.env]
        network_mode: host
        x-mine: 1
        ports: ["4001:4003", "4004", "9999:80"]
        """,
    )
    assert found.only.options == {"image": IMAGE, "vnc": True, "time_zone": "Etc/UTC"}
    starts = [" ".join(each.split()[:6]) for each in found.remarks]
    assert starts == [
        "docker-compose.yml:2: READ_ONLY_API is not set, so",
        "docker-compose.yml:2: it has neither TIME_ZONE nor",
        "docker-compose.yml:2: no trading mode is set",
        "docker-compose.yml:7: TWOFA_DEVICE has no counterpart: which",
        "docker-compose.yml:9: MINIMIZE_MAIN_WINDOW has no counterpart: the",
        "docker-compose.yml:10: AUTO_RESTART_TIME has no counterpart with",
        "docker-compose.yml:11: JAVA_HEAP_SIZE has no counterpart with",
        "docker-compose.yml:12: VNC_SERVER_PASSWORD becomes gateway.vnc; each start",
        "docker-compose.yml:15: network_mode has no counterpart: gateways",
        "docker-compose.yml:17: port 9999 leads to none",
        "shared.env:2: TWS_COLD_RESTART has no counterpart: the",
    ]
    assert PASSWORD not in "".join(found.remarks)


def test_a_port_open_to_others_is_remarked_on(compose: ComposeFiles) -> None:
    """Compose publishes on every address unless told; gateways never do."""
    found = compose.with_variables(LOGIN, beside='ports: ["4104:4004", "0.0.0.0:4002:4004"]\n')
    assert found.only.options["port"] == 4104
    assert [each.split(": ")[1][:30] for each in found.remarks] == [
        "port 4002 was open to other ho",
        "port 4104 was open to other ho",
    ]
