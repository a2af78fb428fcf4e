"""Reads placeOrder, the longest request: its layout depends on the version and on the order itself.

What the exchange can't honour (combinations, conditions, a later start) is refused here, never silently ignored.
"""

from __future__ import annotations

from dataclasses import replace

from spreadpilot_core.ibkr.simulator.api.fields import Fields
from spreadpilot_core.ibkr.simulator.books.orders import Rejected, Ticket

_WITHOUT_PROFILE = 177
"""From this version on the allocation profile is gone."""


def read_ticket(fields: Fields, *, order_id: int, client_id: int, version: int) -> Ticket:
    """The order in a placeOrder request, from the instrument on.

    Raises:
        BadRequest: the fields can't be read.
        Rejected: the order asks for what the simulator doesn't serve.
    """
    ticket = _read_terms(fields, order_id, client_id)
    fields.skip(2)  # shares allocation, discretionary amount
    _refuse(fields.text(), "goodAfterTime")
    good_till_date = fields.text()
    fields.skip(3 if version >= _WITHOUT_PROFILE else 4)  # allocation to a group
    fields.skip(4)  # modelCode, shortSaleSlot, designatedLocation, exemptCode
    return replace(ticket, good_till_date=good_till_date, oca_type=fields.integer(), what_if=_read_what_if(fields))


def _read_terms(fields: Fields, order_id: int, client_id: int) -> Ticket:
    """From the instrument to the flag `hidden`."""
    instrument = fields.description()
    fields.skip(2)  # secIdType, secId
    if instrument.sec_type == "BAG":
        raise Rejected(387, "Unsupported order type for this exchange and security type.")
    ticket = Ticket(
        order_id,
        client_id,
        instrument,
        action=fields.text(),
        quantity=fields.number() or 0.0,
        order_type=fields.text(),
        limit=fields.number(),
        aux=fields.number(),
        tif=fields.text() or "DAY",
        oca_group=fields.text(),
        account=fields.text(),
        open_close=fields.text(),
        origin=fields.integer(),
        order_ref=fields.text(),
        transmit=fields.flag(),
        parent_id=fields.integer(),
    )
    fields.skip(4)  # blockOrder, sweepToFill, displaySize, triggerMethod
    return replace(ticket, outside_rth=fields.flag(), hidden=fields.flag())


def _read_what_if(fields: Fields) -> bool:
    """Walk from rule80A to the conditions."""
    fields.skip(14)  # rule80A to stockRangeUpper
    fields.skip(3)  # overridePercentageConstraints, volatility, volatilityType
    delta_neutral_type = fields.text()
    fields.skip(9 if delta_neutral_type else 1)
    fields.skip(6)  # continuousUpdate to scaleSubsLevelSize
    if (fields.number() or 0.0) > 0:  # scalePriceIncrement
        fields.skip(7)
    fields.skip(3)  # scaleTable, activeStartTime, activeStopTime
    _refuse(fields.text(), "hedgeType")
    fields.skip(4)  # optOutSmartRouting, clearingAccount, clearingIntent, notHeld
    if fields.flag():  # delta-neutral contract
        fields.skip(3)
    if fields.text():  # algoStrategy: filled like any other order
        fields.skip(2 * fields.integer())
    fields.skip(1)  # algoId
    what_if = fields.flag()
    fields.skip(4)  # orderMiscOptions, solicited, randomizeSize, randomizePrice
    _refuse(fields.text().replace("0", ""), "conditions")
    return what_if


def _refuse(value: str, name: str) -> None:
    if value:
        raise Rejected(10268, f"The '{name}' order attribute is not supported.")
