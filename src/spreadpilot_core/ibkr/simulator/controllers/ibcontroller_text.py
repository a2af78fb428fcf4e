"""What the newer image prints: its scripts, ibcontroller 0.1.4 and the gateway's windows as it reports them. Data alone.

A scene is log text as it appears; `{name}` is filled in, and lines that begin with `LEVEL ibcontroller` or `socat[` get
their stamp. Settings that are shown as `******` are hidden by the program itself.
"""

from __future__ import annotations

BANNER = """\
*************************************************************************
.> Starting ibcontroller/IB gateway
*************************************************************************
.> Starting Xvfb server
.> SSH tunnel disabled
.> VNC server disabled
.> API_PORT set to: {api_port}
.> SOCAT_PORT set to: {outer_port}
.> Settings directory set to: {settings_path}
.> File jts.ini already exists, not setting timezone
.> Starting Port Forwarding.
.> Starting socat
.> Starting ibcontroller in {mode} mode, with params:
.>\t\tprogram: gateway
.>\t\ttws-path: /home/ibgateway/Jts
.>\t\ttws-channel: stable
.>\t\ttws-settings-path: {settings_path}
.>\t\tmfa-timeout-action: {missed_action}
Forking :::{api_port} onto 0.0.0.0:{outer_port} > trading mode {mode}{blank}"""

ENVIRONMENT = """\
IBController > loaded from dotenv (override=False)
IBController > Environment variable:{blank}
IBController > env IBC_APP_DIR=/home/ibgateway/ibcontroller
IBController > env IBC_SETTINGS_FILE=/home/ibgateway/ibcontroller/config/ibkr_settings.toml
IBController > env IBC_PROGRAM=gateway
IBController > env IBC_TWS_PATH=/home/ibgateway/Jts
IBController > env IBC_TWS_CHANNEL=stable
IBController > env IBC_TWS_VERSION=10.45.1j
IBController > env IBC_USERID=******
IBController > env IBC_PASSWORD=******
IBController > env IBC_TRADING_MODE={mode}
IBController > env IBC_TWS_SETTINGS_PATH={settings_path}"""
ENVIRONMENT_LINE = "IBController > env {name}={value}"

CONFIG = """\
IBController > Config:{blank}
IBController > config accept_incoming_connections=accept
IBController > config auto_logoff_time=None
IBController > config auto_restart_time={auto_restart_time}
IBController > config closedown_at=None
IBController > config cold_restart_time=None
IBController > config diagnostic_scope=known
IBController > config diagnostic_when=never
IBController > config existing_session_action={existing_session_action}
IBController > config instance={instance}
IBController > config java_heap_size=None
IBController > config log_backup_count=5
IBController > config log_dir=/home/ibgateway/ibcontroller/log
IBController > config log_level=20
IBController > config log_max_bytes=10485760
IBController > config log_sink=std
IBController > config login_dialog_display_timeout=60.0
IBController > config mfa_exit_interval=60.0
IBController > config mfa_timeout=180.0
IBController > config mfa_timeout_action={missed_action}
IBController > config password=*******
IBController > config program=gateway
IBController > config read_only_api={read_only}
IBController > config read_only_login=False
IBController > config relogin_after_mfa_timeout={relogin}
IBController > config settings_file=/home/ibgateway/ibcontroller/config/ibkr_settings.toml
IBController > config time_zone={time_zone}
IBController > config trace_enabled=False
IBController > config trading_mode={mode}
IBController > config tws_channel=stable
IBController > config tws_path=/home/ibgateway/Jts
IBController > config tws_settings_path={settings_path}
IBController > config tws_version=10.45.1j
IBController > config userid=*******"""
OLD_CONFIG = "\n".join(
    line for line in CONFIG.splitlines() if "mfa_timeout_action" not in line and "time_zone" not in line
)
"""What a version before 0.1.4 prints."""

NO_CREDENTIALS = """\
error: credentials not found -- set IBC_USERID and IBC_PASSWORD in the environment

Edit /home/ibgateway/ibcontroller/config/ibcontroller.toml (run `ibcontroller init` first if it doesn't exist yet) and set IBC_USERID/IBC_PASSWORD."""

LAUNCHING = """\
INFO ibcontroller.launcher: IBController > launching instance {instance} ({mode})
INFO ibcontroller.launcher: IBController > launch command for {instance}: ['/home/ibgateway/Jts/ibgateway/10.45.1j/jre/bin/java', '-Xmx768m', '-Dtwslaunch.autoupdate.serviceImpl=com.ib.tws.twslaunch.install4j.Install4jAutoUpdateService', '-Dexe4j.isInstall4j=true', '-Dinstall4jType=standalone', '-Dchannel=stable', '-DjtsConfigDir={settings_path}', '-DinstallDir=/home/ibgateway/Jts/ibgateway/10.45.1j/'{restart}, '-cp', '/opt/python/lib/python3.12/site-packages/ibcontroller/ibcontroller-agent.jar', 'ibcontroller.agent.AgentMain', '/home/ibgateway/ibcontroller/run/ibcontroller-agent-{instance}-cmd.sock', 'ibgateway.GWClient', '{settings_path}']
JWPRINT gateway raw stdout line"""
RESTART_OPTION = ", '-Drestart={hash}'"

NEVER_READY = "WARNING ibcontroller.launcher: instance {instance} never became ready, terminating"
DIED_BEFORE_READY = (
    "error: agent process exited (returncode={code}) before answering ping on "
    "/home/ibgateway/ibcontroller/run/ibcontroller-agent-{instance}-cmd.sock"
)
READY_TO_LOG_IN = """\
INFO ibcontroller.launcher: IBController > instance {instance} ready, pid={pid}
INFO ibcontroller.control_loop: IBController > startup state: LAUNCHING -> LOGGING_IN"""

NO_LOGIN_FORM = (
    "login frame never appeared within 60.0s (expected one of ['IBKR Gateway', 'IB Gateway', "
    "'Interactive Brokers Gateway'])"
)
NO_LOGIN_FORM_RELAUNCH = (
    "WARNING ibcontroller.control_loop: IBController > login frame never appeared -- relaunching "
    "(restart hash={hash}): {reason}"
)


def window(title: str, kind: str = "javax.swing.JDialog") -> str:
    """A window that ibcontroller has no rule for."""
    return f"INFO ibcontroller.recognisers: unhandled unprompted window: {kind} {title!r}"


_FORM = window("IBKR Gateway", "ibgateway.ax")
SUBMITTED = "INFO ibcontroller.login: IBController > credentials submitted, awaiting outcome"
LOGIN_FORM = f"{_FORM}\n{SUBMITTED}"
LOGIN_FORM_LEFT_ALONE = (
    f"INFO ibcontroller.login: IBController > restart_expected flag -- skipping credential fill\n{_FORM}"
)
AUTHENTICATING = window("Authenticating...", "twslaunch.jutils.bJ")

REJECTED = "WARNING ibcontroller.recognisers: IBController > unrecognized username or password -- login rejected"
REJECTED_REASON = "unrecognized username or password"
LOGIN_FAILED = "WARNING ibcontroller.recognisers: IBController > login failed -- transient, relaunching"
LOGIN_FAILED_REASON = "login failed; server disconnected"
LOGIN_ERROR = "WARNING ibcontroller.recognisers: IBController > login error: {text} | OK"
LOGIN_ERROR_REASON = "login error dialog; server disconnected"
CONNECTION_FAILED = "WARNING ibcontroller.recognisers: IBController > Connection to server failed: {reason}"
CONNECTION_FAILED_REASON = "gateway connection failed: Connection to server failed: {reason}"
PAPER_USERS = "multiple Paper Trading users"
"""The one reason that ibcontroller takes for a rejection."""
STALE_SESSION = "Soft token could not be validated, please log in again"
TOO_MANY = "WARNING ibcontroller.recognisers: too many failed login attempts -- relogin disabled, stopping"
TOO_MANY_REASON = "too many failed login attempts, relogin disabled"
TOO_MANY_RETRY = "WARNING ibcontroller.recognisers: too many failed login attempts -- retrying in {seconds}s"
HUNG_REASON = "login did not complete within 180.0s of credentials being submitted, no 2FA dialog seen"

SECOND_FACTOR = "INFO ibcontroller.login: IBController > second factor authentication in progress\n" + window(
    "Second Factor Authentication"
)
MISSED_REASON = "login did not complete within 180.0s of the 2FA dialog appearing (mfa_timeout)"
STUCK_REASON = (
    "login did not complete within 60.0s of second factor authentication completing "
    "(IBC's own SecondFactorAuthenticationExitInterval watchdog)"
)
MISSED_RELAUNCH = (
    "WARNING ibcontroller.control_loop: IBController > mfa_timeout_action=restart -- relaunching "
    "with a full fresh login: {reason}"
)

_EXISTING = "INFO ibcontroller.recognisers: IBController > existing session detected -- "
EXISTING_MANUAL = _EXISTING + "manual, leaving for the user"
EXISTING_SECONDARY = _EXISTING + "secondary, ending this session"
EXISTING_FIRST = _EXISTING + "first attempt, continuing this session"
EXISTING_SECOND = _EXISTING + "second attempt, ending this session"
EXISTING_PRIMARY = _EXISTING + "primary, continuing this session"
EXISTING_OVERRIDE = _EXISTING + "primaryoverride, ending this session"

LOGIN_COMPLETED = """\
INFO ibcontroller.login: IBController > login completed
INFO ibcontroller.control_loop: IBController > login completed, state=LoginState.LOGGED_IN
INFO ibcontroller.control_loop: IBController > startup state: LOGGING_IN -> APPLYING_SETTINGS
ERROR ibcontroller.control_loop: IBController > settings: could not load /home/ibgateway/ibcontroller/config/ibkr_settings.toml -- continuing with built-in settings only: could not read settings file /home/ibgateway/ibcontroller/config/ibkr_settings.toml: [Errno 2] No such file or directory: '/home/ibgateway/ibcontroller/config/ibkr_settings.toml'"""
LOGIN_COMPLETED_AGAIN = "INFO ibcontroller.login: IBController > login completed"

SKIP_TIME = (
    "INFO ibcontroller.settings: IBController > settings: skipping Lock and Exit (None) -- value resolved to None"
)
APPLY_TIME = "INFO ibcontroller.settings: IBController > settings: applying Lock and Exit (auto_restart_time) = {auto_restart_time}"
APPLY_READ_ONLY = (
    "INFO ibcontroller.settings: IBController > settings: applying API/Settings (Read-Only API) toggle = {read_only}"
)
READ_ONLY_FAILED = (
    "ERROR ibcontroller.settings: IBController > settings: entry API/Settings (read_only_api) failed -- skipping: "
    "control not found: 'Read-Only API'"
)
DISCLAIMER = "INFO ibcontroller.recognisers: dismissed non_brokerage_account (declarative rule)"
SETTINGS_APPLIED = """\
INFO ibcontroller.control_loop: IBController > declarative settings applied (built-in only)
INFO ibcontroller.control_loop: IBController > startup state: APPLYING_SETTINGS -> READY"""

ABORTED = """\
WARNING ibcontroller.control_loop: IBController > cycle aborted: {reason}
INFO ibcontroller.control_loop: IBController > startup state: {state} -> SHUTTING_DOWN"""
TRANSIENT_RELAUNCH = (
    "WARNING ibcontroller.control_loop: IBController > transient login failure -- relaunching with a full fresh login: "
    "{reason}"
)
NEVER_LOGGED_IN = "INFO ibcontroller.launcher: IBController > shutting down (never logged in) -- terminating directly"
ERROR = "error: {reason}"

ENDED_BY_ITSELF = """\
WARNING ibcontroller.control_loop: agent process exited on its own (returncode={code})
INFO ibcontroller.control_loop: IBController > startup state: READY -> SHUTTING_DOWN"""
ENDED_EARLY = """\
WARNING ibcontroller.control_loop: IBController > {cause} during {state} -- aborting this cycle
INFO ibcontroller.control_loop: IBController > startup state: {state} -> SHUTTING_DOWN"""
CYCLE_STOPPED = """\
INFO ibcontroller.launcher: IBController > shutting down (process already exited) -- nothing to terminate
INFO ibcontroller.control_loop: IBController > control loop cycle stopped: {cause}"""
RESTARTED = (
    "WARNING ibcontroller.control_loop: Gateway restarted on its own schedule (autorestart marker present at "
    "{settings_path}, hash={hash}) -- relaunching"
)

SHUTTING_DOWN = "INFO ibcontroller.control_loop: IBController > startup state: {state} -> SHUTTING_DOWN"
SHUT_DOWN = "INFO ibcontroller.launcher: IBController > shut down cleanly via File/Close (returncode=0)"
STOP_REQUESTED = "INFO ibcontroller.control_loop: IBController > control loop stop requested (task cancelled)"
STOPPED = "stopped: {cause}"

SIGTERM = """\
.> \N{FACE THROWING A KISS} Received SIGINT or SIGTERM. Shutting down IB Gateway.
.> Stopping ibcontroller."""
AFTER_SIGTERM = """\
.> Done... 0
.> Stopping Xvfb.
.> Stopping socat."""

REFUSED = "socat[{pid}] E connect(5, AF=2 127.0.0.1:{api_port}, 16): Connection refused"
CONFIGURATION = "{account} Trader Workstation Configuration{simulated}"
