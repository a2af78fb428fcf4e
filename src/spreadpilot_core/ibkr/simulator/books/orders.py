"""Orders and their executions, as the book keeps them.

An order is what the client asked for plus what became of it. The exchange decides; this module holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from spreadpilot_core.ibkr.simulator.books.contracts import Contract, Description


class Status(str, Enum):
    """Order states, in IBKR's spelling."""

    PENDING_SUBMIT = "PendingSubmit"
    PRE_SUBMITTED = "PreSubmitted"
    SUBMITTED = "Submitted"
    PENDING_CANCEL = "PendingCancel"
    CANCELLED = "Cancelled"
    FILLED = "Filled"
    INACTIVE = "Inactive"


_DONE = frozenset({Status.CANCELLED, Status.FILLED, Status.INACTIVE})


class Rejected(Exception):  # noqa: N818  # the book's word
    """The gateway refuses a request, with the code and text that IBKR gives."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Ticket:
    """What a client asks for when it places an order."""

    order_id: int
    client_id: int
    instrument: Description
    action: str
    quantity: float
    order_type: str
    limit: float | None = None
    aux: float | None = None
    tif: str = "DAY"
    oca_group: str = ""
    oca_type: int = 0
    account: str = ""
    open_close: str = ""
    origin: int = 0
    order_ref: str = ""
    transmit: bool = True
    parent_id: int = 0
    outside_rth: bool = False
    hidden: bool = False
    good_till_date: str = ""
    what_if: bool = False


@dataclass(eq=False)
class Order:
    """An order in the book."""

    ticket: Ticket
    contract: Contract
    perm_id: int
    status: Status = Status.PENDING_SUBMIT
    filled: float = 0.0
    average_price: float = 0.0
    last_price: float = 0.0
    triggered: bool = False
    """A stop whose price was reached."""
    completed_at: float | None = None
    why_held: str = ""

    @property
    def key(self) -> tuple[int, int]:
        """Client id and order id: what names an order for its client."""
        return self.ticket.client_id, self.ticket.order_id

    @property
    def remaining(self) -> float:
        """What is still to be filled."""
        return self.ticket.quantity - self.filled

    @property
    def is_done(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.status in _DONE

    @property
    def sign(self) -> float:
        """1 for a purchase, -1 for a sale."""
        return 1.0 if self.ticket.action == "BUY" else -1.0


@dataclass(frozen=True)
class Execution:
    """One fill of an order."""

    execution_id: str
    order: Order
    at: float
    quantity: float
    price: float
    cumulative: float
    average_price: float
    commission: float
    currency: str
    """Of the commission."""
    realized: float | None
    """Realized profit; None for a fill that opens."""

    @property
    def side(self) -> str:
        """IBKR's word for the direction."""
        return "BOT" if self.order.sign > 0 else "SLD"


@dataclass(frozen=True)
class Preview:
    """What an order would do to its account (a what-if order), in dollars."""

    initial_before: float
    maintenance_before: float
    equity_before: float
    initial_change: float
    maintenance_change: float
    equity_change: float
    commission: float
