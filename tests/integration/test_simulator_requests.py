"""Every request of the protocol gets an answer: what is asked for, or an error as IBKR would give it."""

from __future__ import annotations

import pytest

from spreadpilot_core.ibkr.simulator.api.dispatch import HANDLED
from spreadpilot_core.ibkr.simulator.api.refusals import REFUSALS, UNANSWERED
from support.api_server import RawClient, serving

APPLE = (265598, "AAPL", "STK", "", 0.0, "", "", "SMART", "", "USD", "", "")
LIMIT = ["", "", "BUY", 1, "LMT", 100.0, "", "DAY", "", "", "", 0, "", 1, 0, 0, 0, 0, 0, 0, 0]
"""From secIdType to hidden."""
ANSWERS: dict[int, tuple[tuple[object, ...], int]] = {
    1: ((11, 5, *APPLE, 0, "", 1, 0, ""), 57),
    2: ((1, 5), 4),
    4: ((1, 5, ""), 4),
    5: ((1,), 53),
    6: ((2, 1, "DU1"), 54),
    7: ((3, 5, 0, "", "", "", "", "", ""), 55),
    8: ((1, 1), 9),
    9: ((8, 5, *APPLE, 0, "", "", ""), 52),
    16: ((1,), 53),
    17: ((1,), 15),
    20: ((5, *APPLE, 0, "", "1 hour", "1 D", 0, "TRADES", 1, 0, ""), 17),
    49: ((1,), 49),
    61: ((1,), 62),
    62: ((1, 5, "All", "NetLiquidation"), 64),
    67: ((1, 5), 67),
    74: ((1, 5, "DU1", ""), 72),
    76: ((1, 5, "DU1", "", 0), 74),
    78: ((5, "AAPL", "", "STK", 265598), 76),
    79: ((5,), 77),
    80: ((), 78),
    81: ((5, "APP"), 79),
    82: ((), 80),
    83: ((5, "9c0001"), 82),
    85: ((), 85),
    87: ((5, *APPLE, 0, 0, "TRADES", 1), 88),
    91: ((26,), 93),
    92: ((5, "DU1", ""), 94),
    94: ((5, "DU1", "", 265598), 95),
    99: ((0,), 102),
    104: ((5,), 107),
}
SILENT_AT_IBKR = {3, 15, 25, 58, 59, 63, 64, 75, 77, 90, 93, 95} | UNANSWERED
"""Cancellations and settings; placing an order is proved elsewhere."""


def test_every_request_is_listed() -> None:
    """Each request that the protocol had at version 178 has a handler, and this file says what it is answered with."""
    known = {*range(1, 26), *range(49, 60), *range(61, 105)}
    assert known == HANDLED
    assert known == set(ANSWERS) | set(REFUSALS) | SILENT_AT_IBKR


@pytest.mark.parametrize("number", sorted(ANSWERS))
async def test_requests_are_answered(number: int) -> None:
    """A request that the simulator serves is answered by its message."""
    fields, answer = ANSWERS[number]
    async with serving() as served:
        client = await RawClient.started(served.port)
        client.send(number, *fields)
        assert (await client.until(answer))[-1][0] == str(answer)
        client.close()


@pytest.mark.parametrize("number", sorted(REFUSALS))
async def test_unserved_requests_are_refused(number: int) -> None:
    """A request that the simulator doesn't serve is refused on its own id, so that the client doesn't wait."""
    refusal = REFUSALS[number]
    fields = [77] * 30
    async with serving() as served:
        client = await RawClient.started(served.port)
        client.send(number, *fields)
        message = await client.read()
        assert message[:4] == ["4", "2", "-1" if refusal.id_at is None else "77", str(refusal.code)]
        client.close()


@pytest.mark.parametrize("number", sorted(SILENT_AT_IBKR - {3}))
async def test_requests_without_answer_do_no_harm(number: int) -> None:
    """A request that IBKR doesn't answer is taken without a word, and the session goes on."""
    async with serving() as served:
        client = await RawClient.started(served.port)
        client.send(number, *[1] * 5)
        client.send(49, 1)
        assert (await client.read())[0] == "49"
        client.close()


@pytest.mark.parametrize(
    "frame",
    [
        ("200", "1"),
        ("not a number", "1"),
        ("",),
        ("9" * 40,),
        ("٣", "1"),
        ("62", "1"),
        ("62", "1", "x"),
        ("1", "11", "inf", *map(str, APPLE)),
        ("20", "5", *map(str, APPLE), "0", "", "1 hour", "1 D", "maybe"),
        ("3", "nan"),
        ("3", "1", *map(str, APPLE), "", "", "BUY", "1e300"),
    ],
)
async def test_requests_that_cannot_be_read(frame: tuple[str, ...]) -> None:
    """An unknown or unreadable request is answered by error 320, and the session goes on."""
    async with serving() as served:
        client = await RawClient.started(served.port)
        client.send(*frame)
        assert (await client.read())[:4] == ["4", "2", "-1", "320"]
        client.send(49, 1)
        assert (await client.read())[0] == "49"
        client.close()


@pytest.mark.parametrize("version", [157, 165, 166, 178])
async def test_the_form_of_an_error(version: int) -> None:
    """An error has the field for an advanced reject from version 166 on, and not before: old clients refuse it."""
    async with serving(server_version=version) as served:
        client = await RawClient.started(served.port)
        client.send(2, 1, 9)
        message = await client.read()
        assert message[2:4] == ["9", "300"]
        assert len(message) == (6 if version >= 166 else 5)
        client.close()


async def test_a_read_only_api() -> None:
    """A read-only API refuses orders on their id, and looking at orders without one, all by 321; the rest is served."""
    async with serving(read_only=True) as served:
        client = await RawClient.started(served.port)
        for fields, request_id in [
            ((5, 1), "-1"),
            ((16, 1), "-1"),
            ((99, 0), "-1"),
            ((15, 1, 1), "-1"),
            ((58, 1), "-1"),
            ((3, 44, *APPLE, *LIMIT), "44"),
            ((4, 1, 44, ""), "44"),
        ]:
            client.send(*fields)
            message = await client.read()
            assert message[2:4] == [request_id, "321"]
            assert "Read-Only mode" in message[4]
        client.send(7, 3, 5, 0, "", "", "", "", "", "")
        assert await client.read() == ["55", "1", "5"]
        client.close()


async def test_quick_repeats_are_ignored_when_asked_for() -> None:
    """Live gateways ignore a request for the time within a second of the last one; the simulator does so on demand."""
    async with serving() as served:
        client = await RawClient.started(served.port)
        served.server.behaviour.ignores_repeats = True
        client.send(49, 1)
        client.send(49, 1)
        client.send(8, 1, 1)
        assert [(await client.read())[0] for _ in range(2)] == ["49", "9"]
        client.close()


async def test_an_order_id_is_used_once() -> None:
    """An order id that was used is refused, also after the order is done; a done order can be neither changed nor cancelled."""
    async with serving() as served:
        client = await RawClient.started(served.port)
        rest = [0, "", "", 0, "", "", "", "", "", "", "", 0, 0, "", "", "", "", "", "", "", *[""] * 60]

        async def place(order_id: int) -> list[str]:
            client.send(3, order_id, *APPLE, *LIMIT, *rest)
            return await client.read()

        assert (await place(10))[0] == "5"
        await client.until(3)
        await client.until(3)
        client.send(4, 1, 10, "")
        await client.until(4)
        assert (await place(10))[2:4] == ["10", "103"]
        assert (await place(9))[2:4] == ["9", "103"]
        client.send(4, 1, 10, "")
        assert (await client.read())[2:4] == ["10", "10148"]
        client.send(4, 1, 99, "")
        assert (await client.read())[2:4] == ["99", "10147"]
        client.send(8, 1, 1)
        assert await client.read() == ["9", "1", "11"]
        client.close()
