"""What an operator's command asks of a supervisor, and the answer that it waits for: about what happened after it was given.

`GatewayManager` finds the supervisor and promises the words; here is the asking. Whoever asks has made sure that the
follower has a usable record.
"""

from __future__ import annotations

from spreadpilot_core.ibkr.deciding.launching import LEFT_ELSEWHERE_CURE
from spreadpilot_core.ibkr.deciding.observation import BEGINS_NOTHING, Wanted
from spreadpilot_core.ibkr.errors import GatewayManagerError, LaunchError, LoginRefusedError, StoreDamagedError
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.states import GatewayStatus
from spreadpilot_core.ibkr.supervision.fleet import Fleet
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor


async def launch(
    fleet: Fleet,
    supervisor: GatewaySupervisor,
    *,
    retry_login: bool = False,
    override_account_lock: str | None = None,
) -> None:
    """See `GatewayManager.launch_gateway`."""
    if supervisor.facts.wanted in (Wanted.DISABLED, Wanted.INVALID):
        raise LaunchError(
            f"{supervisor.follower_id} can't be launched: {supervisor.facts.wanted_why}",
            hint="Correct or enable its record.",
        )
    by_operator = retry_login or override_account_lock is not None
    insists = by_operator and supervisor.waits_for_reset
    if supervisor.is_up and not supervisor.facts.record.stopped_by_operator and not insists:
        return
    act = "retry-login" if by_operator else "launch"
    act = act if override_account_lock is None else "override-account-lock"
    await supervisor.audit_operator(act, user=override_account_lock)
    asked = supervisor.ask_launch(operator_login=by_operator, overridden_user=override_account_lock)
    fleet.roster.want_by_record(supervisor)
    await _until_up(supervisor, asked)
    await fleet.write_records()  # a stop that it takes back must not come back


async def launch_live(
    fleet: Fleet, supervisor: GatewaySupervisor, *, retry_login: bool = False, override_account_lock: str | None = None
) -> None:
    """See `GatewayManager.launch_gateway`: with an operator's word for live trading, which stands where the start is refused."""
    known = supervisor.facts.record.trading_mode is TradingMode.LIVE
    must_restart = await _confirm_live(fleet, supervisor)
    try:
        if must_restart:
            await restart(fleet, supervisor)
        else:
            await launch(fleet, supervisor, retry_login=retry_login, override_account_lock=override_account_lock)
    except (LoginRefusedError, LaunchError) as error:
        if known:
            raise
        kind = LoginRefusedError if isinstance(error, LoginRefusedError) else LaunchError
        then = "Live trading is confirmed all the same: its next start is live."
        raise kind(error.what, hint=then if error.hint is None else f"{error.hint} {then}") from error


async def _confirm_live(fleet: Fleet, supervisor: GatewaySupervisor) -> bool:
    """Remember an operator's word for live trading; True when a paper gateway must be restarted for it."""
    follower_id = supervisor.follower_id
    reading = fleet.roster.reading_of(follower_id)
    if reading is None or reading.trading_mode is not TradingMode.LIVE:
        raise LaunchError(
            f"{follower_id} can't be launched live: its record does not ask for that.",
            hint='Write trading_mode = "live" into it first.',
        )
    if (hindrance := await fleet.hindrance_to_commands()) is not None:
        raise LaunchError(f"{follower_id} can't be launched live now: {hindrance}")
    if supervisor.facts.record.trading_mode is not TradingMode.LIVE:
        await supervisor.audit_operator("confirm-live")
        fleet.roster.confirm_live(supervisor)
        await fleet.write_records()
    gateway = supervisor.facts.gateway_view.gateway
    return gateway is not None and gateway.trading_mode is not TradingMode.LIVE


async def stop(fleet: Fleet, supervisor: GatewaySupervisor) -> None:
    """See `GatewayManager.stop_gateway`."""
    if (hindrance := await fleet.hindrance_to_commands()) is not None:
        raise GatewayManagerError(f"{supervisor.follower_id} was not stopped: {hindrance}")
    had_gateway = not supervisor.is_gone
    supervisor.stop_by_operator()
    fleet.roster.want_by_record(supervisor)
    await supervisor.until_gone()
    if not supervisor.facts.record.stopped_by_operator:
        raise GatewayManagerError(
            f"{supervisor.follower_id} was launched again before it was gone.",
            hint="Stop it again if that was not meant.",
        )
    if (unfinished := _unfinished(fleet, supervisor, had_gateway=had_gateway)) is not None:
        await fleet.write_records()
        raise unfinished
    if supervisor.facts.record_fault is not None:
        raise StoreDamagedError(
            f"{supervisor.follower_id} is stopped, and that can't be remembered: {supervisor.facts.record_fault}"
        )
    await fleet.write_records()


def _unfinished(fleet: Fleet, supervisor: GatewaySupervisor, *, had_gateway: bool) -> GatewayManagerError | None:
    """Why one may be logged in although no gateway is watched any more; `had_gateway`: one was, before the stop."""
    follower_id, facts = supervisor.follower_id, supervisor.facts
    if (left := facts.left_elsewhere) is not None:
        return GatewayManagerError(f"{left}: this manager can't stop it.", hint=LEFT_ELSEWHERE_CURE)
    if facts.unclaimed is not None:
        return GatewayManagerError(
            f"The gateway of {follower_id} was not stopped: {facts.record_fault or facts.unclaimed}"
        )
    if not fleet.listed.is_set():
        return GatewayManagerError(
            f"Whether {follower_id} has a gateway can't be seen: {facts.runtime_fault}",
            hint="It is stopped as soon as that is seen.",
        )
    if not had_gateway and (foreign := fleet.elsewhere.of(follower_id)) is not None:
        return GatewayManagerError(f"No gateway was stopped. {foreign}.", hint=foreign.cure)
    return None


async def restart(fleet: Fleet, supervisor: GatewaySupervisor) -> None:
    """See `GatewayManager.restart_gateway`."""
    follower_id, before = supervisor.follower_id, supervisor.facts.gateway_view.gateway
    if before is None or (supervisor.facts.wanted is not Wanted.RUN and supervisor.facts.wanted not in BEGINS_NOTHING):
        await launch(fleet, supervisor)
        return
    await supervisor.audit_operator("restart")
    asked = supervisor.ask_restart()
    await supervisor.facts.requests.answered(asked, lambda: supervisor.facts.requests.restart_asked is None)
    if (
        supervisor.facts.gateway_view.gateway is not None
        and supervisor.facts.gateway_view.gateway.container_id == before.container_id
    ):
        refusal = supervisor.facts.requests.refused_restart or "Something else was wanted meanwhile."
        raise LoginRefusedError(f"{follower_id} was not restarted: {refusal}", hint="Its gateway keeps running.")
    await _until_up(supervisor, supervisor.ask())


async def reconnect(fleet: Fleet, supervisor: GatewaySupervisor, *, within: float) -> bool:
    """See `GatewayManager.reconnect`; `within` seconds."""
    if not supervisor.facts.gateway_view.is_running:
        return False
    follower_id, before = supervisor.follower_id, supervisor.facts.gateway_view.connection
    asked = supervisor.ask_reconnect()

    def done() -> bool:
        connection = supervisor.facts.gateway_view.connection
        renewed = connection is not None and connection is not before and follower_id in fleet.ready
        return (
            renewed or not supervisor.facts.gateway_view.is_running or supervisor.state.status is GatewayStatus.FAILED
        )

    return await supervisor.facts.requests.answered(asked, done, timeout=within) and follower_id in fleet.ready


async def _until_up(supervisor: GatewaySupervisor, asked: int) -> None:
    """Wait until it is up; raises why it is not."""

    def done() -> bool:
        answered = supervisor.facts.requests.refused_login is not None or supervisor.obstacle is not None
        return answered or supervisor.is_up or _is_down(supervisor)

    await supervisor.facts.requests.answered(asked, done)
    if (refused := supervisor.facts.requests.refused_login) is not None:
        raise LoginRefusedError(f"{supervisor.follower_id}: {refused}", hint=refused.next_action)
    if supervisor.is_up:
        return
    if supervisor.obstacle is not None:
        raise LaunchError(f"{supervisor.follower_id} can't be started now: {supervisor.obstacle}")
    why, runner = supervisor.decision.why if supervisor.decision is not None else None, supervisor.runner
    if why is None:
        raise LoginRefusedError(f"{supervisor.follower_id}: It was stopped meanwhile.")
    if runner.error is not None and why.code is runner.error_code:
        raise runner.error
    raise LoginRefusedError(f"{supervisor.follower_id}: {why}", hint=why.next_action)


def _is_down(supervisor: GatewaySupervisor) -> bool:
    """Whether a launch has failed, and why is in `decision`: what a container from before it ended of is no answer."""
    down = supervisor.state.status in (GatewayStatus.FAILED, GatewayStatus.STOPPED)
    leftover = (
        supervisor.facts.gateway_view.gateway is not None
        and supervisor.is_given_up
        and supervisor.facts.wanted is Wanted.RUN
    )
    return down and (not leftover or supervisor.runner.error is not None)
