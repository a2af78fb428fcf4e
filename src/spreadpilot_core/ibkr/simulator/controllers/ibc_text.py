"""What the older image prints: its scripts, IBC 3.24, and the gateway's windows as IBC reports them. Data alone.

A scene is log text as it appears; `{name}` is filled in, and lines that begin with `IBC: ` or `socat[` get their stamp. The
image's own scripts print `.>` lines without one. Dialog contents are not logged, only titles and window events.
"""

from __future__ import annotations

BANNER = """\
*************************************************************************
.> Starting IBC/IB gateway
*************************************************************************
.> Starting Xvfb server
.> SSH tunnel disabled
.> Usign default Java heap size 768m.
.> VNC server disabled
.> API_PORT set to: {api_port}
.> SOCAT_PORT set to: {outer_port}
.> Appling settings to IBC's config.ini
.> Settings directory set to: {settings_path}
.> File jts.ini already exists, not setting timezone
.> Starting Port Forwarding.
.> Starting socat
.> Starting IBC in {mode} mode, with params:
.>\t\tVersion: 10.45.1j
.>\t\tprogram: gateway
.>\t\ttws-path: /home/ibgateway/Jts
.>\t\tibc-path: /home/ibgateway/ibc
.>\t\tibc-init: /home/ibgateway/ibc/config.ini
.>\t\ttws-settings-path: {settings_path}
.>\t\ton2fatimeout: {missed_action}
Forking :::{api_port} onto 0.0.0.0:{outer_port} > trading mode {mode}{blank}"""

START_SCRIPT = """\
Parsing arguments

================================================================================

Starting IBC version  on {date} at {time}

Operating system: Linux ibgateway 6.8.0-48-generic #48-Ubuntu SMP x86_64 x86_64 x86_64 GNU/Linux

Arguments:

TWS version = 10.45.1j
Program = Gateway
Entry point = ibcalpha.ibc.IbcGateway
--tws-path = /home/ibgateway/Jts
--tws-settings-path = {settings_path}
--ibc-path = /home/ibgateway/ibc
--ibc-ini = /home/ibgateway/ibc/config.ini
--mode =
--java-path =
--user =
--pw =
--fix-user =
--fix-pw =

=================================
Generating the classpath
Classpath={classpath}

Generating the JAVA VM options
Java VM Options={options}"""

FIND_MARKER = "Finding autorestart file"
MARKER_FOUND = """\
autorestart file found at {path}: authentication will not be required
AUTORESTART_OPTION is -Drestart={hash}"""
MARKER_NOT_FOUND = """\
autorestart file not found: full authentication will be required

"""

FIND_JAVA = """
Determining the location of java executable
    java.runtime.version = 17.0.10.0.101+1-LTS
Location of java executable=/usr/local/i4j_jres/1.8.0_202/bin

Renaming IB's TWS or Gateway start script to prevent restart without IBC

"""

CLASSPATH = (
    "/home/ibgateway/Jts/ibgateway/10.45.1j/jars/jts4launch-1045.jar:"
    "/home/ibgateway/Jts/ibgateway/10.45.1j/jars/total.jar:/home/ibgateway/ibc/IBC.jar"
)
OPTIONS = (
    "-Xmx768m -XX:+UseG1GC -XX:MaxGCPauseMillis=200 "
    "-Dtwslaunch.autoupdate.serviceImpl=com.ib.tws.twslaunch.install4j.Install4jAutoUpdateService -Dchannel=latest "
    "-Dexe4j.isInstall4j=true -Dinstall4jType=standalone -DjtsConfigDir={settings_path} -Dibcsessionid={session}"
)

START_PROGRAM = """\
Starting Gateway with this command:
"/usr/local/i4j_jres/1.8.0_202/bin/java" -cp "{classpath}" {options} ibcalpha.ibc.IbcGateway "/home/ibgateway/ibc/config.ini"

"""

SETTINGS = """\
IBC Settings:
    AcceptIncomingConnectionAction=accept
    AcceptNonBrokerageAccountWarning=yes
    AutoRestartTime={auto_restart_time}
    CommandServerPort=0
    ExistingSessionDetectedAction={existing_session_action}
    FIX=no
    IbLoginId=***
    IbPassword=***
    LoginDialogDisplayTimeout=60
    LogStructureWhen=never
    ReadOnlyApi={read_only}
    ReloginAfterSecondFactorAuthenticationTimeout={relogin}
    SecondFactorAuthenticationExitInterval=60
    SecondFactorAuthenticationTimeout=180
    TradingMode={mode}
End IBC Settings

IBC: version: 3.24.1
System Properties
------------------------------------------------------------
java.vendor = Azul Systems, Inc.
os.name = Linux
user.home = /home/ibgateway
user.timezone = {time_zone}
------------------------------------------------------------
IBC: using default settings provider: ini file is /home/ibgateway/ibc/config.ini
IBC: using default login manager: will get username and password from settings; FIX username and password (if required) from settings
IBC: using default main window manager
IBC: using default trading mode manager: constructor parameter args but trading mode not present - will be taken from settings
IBC: using default config dialog manager
IBC: CommandServer is not started because the port is not configured
IBC: TWS Settings directory is: {settings_path}"""

COLD = "IBC: Starting session: will exit if login dialog is not displayed within 60 seconds"
WARM = "IBC: Re-starting session"

PROGRAM = """\
IBC: Ensuring {settings_path}/jts.ini contains required minimal lines
IBC: Found setting: [Logon]/s3store=true
IBC: Found setting: [Logon]/Locale=en
IBC: Found setting: [Logon]/displayedproxymsg=1
IBC: Found setting: [Logon]/UseSSL=true
IBC: Found setting: [IBGateway]/ApiOnly=true
IBC: Found setting: [IBGateway]/TrustedIPs=127.0.0.1
IBC: Confirmed {settings_path}/jts.ini contains required minimal lines
IBC: Starting Gateway
IBC: Getting config dialog
IBC: Creating config dialog future
IBC: Getting main window
IBC: Creating main window future"""

_ROW = "!" * 79


def error(text: str) -> str:
    """An error as IBC prints it: three lines."""
    return f"{_ROW}\nIBC: {text}\n{_ROW}"


def _events(kind: str, title: str, *events: str) -> str:
    return "\n".join(f"IBC: detected {kind} entitled: {title}; event={event}" for event in events)


def opened(kind: str, title: str) -> str:
    """A window that comes to the front."""
    return _events(kind, title, "Activated", "Focused", "Opened")


def behind(kind: str, title: str) -> str:
    """A window that another one comes before."""
    return _events(kind, title, "Lost focus", "Deactivated")


def closed(kind: str, title: str) -> str:
    """A window that goes."""
    return _events(kind, title, "Lost focus", "Deactivated", "Closed")


def click(button: str) -> str:
    """IBC clicks a button."""
    return f"IBC: Click button: {button}"


NO_LOGIN_FORM = (
    error("IBC closing after TWS/Gateway failed to display login dialog")
    + "\nIBC: Exiting after error with exit code=1112"
)
LOGIN_FORM = (
    opened("frame", "IBKR Gateway")
    + """
IBC: Login dialog WINDOW_OPENED: LoginState is LOGGED_OUT"""
)
CREDENTIALS = """\
IBC: trading mode from settings: tradingMode={mode}
IBC: Setting Trading mode = {mode}
IBC: Setting user name
IBC: Setting password"""
LOGIN_ATTEMPT = """\
IBC: Login attempt: {attempt}
IBC: Click button: {button}"""

SPLASH = "\n".join(
    (
        behind("frame", "IBKR Gateway"),
        opened("frame", "Loading..."),
        "IBC: Found Gateway main window",
        "IBC: Got main window from future",
        behind("frame", "Loading..."),
        opened("frame", "Authenticating..."),
    )
)
CONNECTING = opened("frame", "Connecting to server...")
STARTING = "\n".join((opened("frame", "Initializing environment..."), opened("frame", "Starting application...")))
LOGIN_COMPLETED = "\n".join((closed("frame", "Starting application..."), "IBC: Login has completed"))

REJECTED = opened("dialog", "Unrecognized Username or Password")
COLD_RESTART = "IBC: Cold restart in progress\nIBC: Click button: OK"
LOGIN_FAILED = "\n".join((opened("dialog", "Login failed"), "IBC: Login failed", COLD_RESTART))
LOGIN_ERROR = "\n".join((opened("dialog", "Login Error"), "IBC: Login error message:\n{text}", COLD_RESTART))
CONNECTION_FAILED = "\n".join((opened("dialog", "Gateway"), "IBC: Connection to server failed: {reason}", COLD_RESTART))
TOO_MANY = "\n".join(
    (
        opened("dialog", "IBKR Gateway"),
        "IBC: Too many failed login attempts. Please wait {wait} before attempting to re-login again.",
    )
)
WILL_RELOGIN = "IBC: Will re-login at {at}; login number: {attempt}\nIBC: Click button: OK"
STALE_SESSION = "Soft token could not be validated, please log in again"

SECOND_FACTOR = "\n".join(
    (
        "IBC: detected dialog entitled: Second Factor Authentication; event=Opened",
        "IBC: Second Factor Authentication initiated",
        behind("frame", "Authenticating..."),
        "IBC: detected dialog entitled: Second Factor Authentication; event=Activated",
        "IBC: detected dialog entitled: Second Factor Authentication; event=Focused",
    )
)
SECOND_FACTOR_CLOSED = "\n".join(
    (closed("dialog", "Second Factor Authentication"), "IBC: Duration since login: {seconds} seconds")
)
WILL_EXIT = "IBC: If login has not completed, IBC will exit in 60 seconds"
NOT_COMPLETED = (
    error("IBC closing because login has not completed after Second Factor Authentication")
    + "\nIBC: Exiting after error with exit code=1111"
)
RELOGIN = "IBC: Re-login after second factor authentication timeout in 5 second"
NO_RELOGIN = "IBC: Re-login after second factor authentication timeout not required"

HANDOFF = opened("dialog", "Trading Login Handoff")
HANDOFF_TAKEN = "IBC: Trading Login Handoff dialog; {}\nIBC: Click button: Disconnect Other Session"
HANDOFF_LEFT = "IBC: Trading Login Handoff dialog; {}"
HANDOFF_IMPOSSIBLE = error("Trading Login Handoff dialog; error: {}") + "\nIBC: Exiting after error with exit code=1110"

EXISTING_SESSION = opened("dialog", "Existing session detected")
SCENARIO = {
    1: "IBC: User must choose whether to continue with this session (scenario 1)",
    2: "IBC: End this session and let the other session proceed (scenario 2)\nIBC: Click button: Cancel",
    3: "IBC: Don't know the type of the other session, so continue this one (scenario 3)\n"
    "IBC: Click button: Continue Login",
    4: "IBC: Other session must be primary or primary override, so end this session and let the other one proceed "
    "(scenario 4)\nIBC: Click button: Cancel",
    5: "IBC: Continue this session and let the other session exit (scenario 5)\nIBC: Click button: Continue Login",
    6: "IBC: Other session may be primary, so end this session and let the other one proceed (scenario 6)\n"
    "IBC: Click button: Cancel",
}

DISCLAIMER = "\n".join((opened("dialog", "Warning"), click("I understand and accept"), closed("dialog", "Warning")))
_CONFIGURATION = "{account} Trader Workstation Configuration{simulated}"
CONFIGURATION = "\n".join(
    ("IBC: Invoking config dialog menu", opened("dialog", _CONFIGURATION), "IBC: Got config dialog from future")
)
READ_ONLY = "IBC: Setting ReadOnlyApi\nIBC: Read-Only API checkbox is already set to: {read_only}"
READ_ONLY_FAILED = "IBC: Setting ReadOnlyApi\n" + error("could not find Read-Only API checkbox")
RESTART_TIME = "IBC: Setting Auto restart time\nIBC: Auto restart time already set to {auto_restart_time}"
CONFIGURED = "\n".join(("IBC: Configuration tasks completed", click("OK"), closed("dialog", _CONFIGURATION)))

RELOGIN_REQUIRED = "\n".join(
    (
        opened("dialog", "Re-login is required"),
        "IBC: Re-login to session",
        click("Re-login"),
        closed("dialog", "Re-login is required"),
    )
)
RESTARTING = opened("dialog", "Restart in progress")
CLOSING = opened("dialog", "Shutdown progress")

PROGRAM_ENDED = "IBC returned exit status {code}"
COLD_RESTART_SHORTLY = "IBC will cold-restart shortly"
RESTART_SHORTLY = "IBC will restart shortly\nsleep 2"
FINISHED = """\
Gateway finished

"""

STOPPING = """\
.> \N{FACE THROWING A KISS} Received SIGINT or SIGTERM. Shutting down IB Gateway.
.> Stopping Xvfb.
.> Stopping socat.
.> Stopping IBC."""

REFUSED = "socat[{pid}] E connect(5, AF=2 127.0.0.1:{api_port}, 16): Connection refused"
