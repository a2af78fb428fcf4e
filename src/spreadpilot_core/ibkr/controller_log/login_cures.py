"""What only a human can cure, told from the words of IBKR's dialogs: another login would end the same way.

IBKR words these freely, and the controllers pass them on: in one line, wrapped over several, with tags, in any case. So words are
compared without case, blanks, marks and tags. The table is about causes, not sentences: each row names what all wordings of a cause
have in common. Everything else that IBKR says to a login stays transient, within the budget.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode

PASSKEY = Reason(
    ReasonCode.PASSKEY_REQUIRED,
    "IBKR wants a passkey of this user, which IB Gateway can't give: in Client Portal, choose IB Key (IBKR Mobile) as the user's "
    "second factor, or store the credentials of a user who has it.",
)
FREE_TRADING = Reason(
    ReasonCode.API_NOT_INCLUDED,
    "The account's pricing plan has no API: move it to IBKR Pro in Client Portal, or store the credentials of a user of such an account.",
)
TOO_OLD_GATEWAY = Reason(
    ReasonCode.GATEWAY_VERSION_REFUSED,
    "IBKR takes no login of this gateway version any more: set `gateway_image` to a newer image.",
)
ATTEMPTS_USED_UP = Reason(
    ReasonCode.PHONE_APPROVALS_USED_UP,
    "IBKR takes no further approval of this login: wait 24 hours or ask IBKR, and see why nobody approved; "
    "each further try prolongs the wait.",
)
PAPER_USERS = Reason(
    ReasonCode.PAPER_USER_AMBIGUOUS,
    "The user name has several paper trading users: store the credentials of the paper user itself.",
)

_CAUSES: Sequence[tuple[re.Pattern[str], Reason]] = (
    (re.compile(r"(requires?d?|must|needs?|only)\w*?passkeys?|passkeys?\w*?(notsupported|required|needed)"), PASSKEY),
    (re.compile(r"(several|multiple)papertradingusers?"), PAPER_USERS),
    (re.compile(r"freetrading"), FREE_TRADING),
    (
        re.compile(
            r"(2fa|twofactor|secondfactor)\w*?max(imum)?\w*?attempts|max(imum)?\w*?(2fa|twofactor|secondfactor)\w*?attempts"
        ),
        ATTEMPTS_USED_UP,
    ),
    (
        re.compile(
            r"(version|release|build|gateway|tws|workstation|application|software)\w*?(nolonger(being)?|notanymore)supported"
        ),
        TOO_OLD_GATEWAY,
    ),
    (re.compile(r"connectiontoserverfailed\w*?nolonger(being)?supported"), TOO_OLD_GATEWAY),
)
_TAG = re.compile(r"<[^<>]{0,200}>")
_OURS = (
    "settings:",
    "setting",
    "found setting",
    "launch command",
    "diagnostic dump",
    "config",
    "using default",
    "detected",
    "window structure",
)
"""How a controller's lines begin that are about itself: a setting that is no longer supported is no verdict of IBKR's."""


def cure_for(text: str) -> Reason | None:
    """What a human must do, where these words of a login tell of a cause that stays; None for everything else."""
    if text.lower().startswith(_OURS):
        return None
    squeezed = "".join(c for c in unicodedata.normalize("NFKC", _TAG.sub(" ", text)).casefold() if c.isalnum())
    return next((cure for pattern, cure in _CAUSES if pattern.search(squeezed)), None)


_MESSAGES = ("connection to server failed", "login error", "login failed", "error message:", "connection failed")


def is_message(text: str) -> bool:
    """Whether this passes on what a dialog says, so that unstamped lines after it belong to it."""
    lowered = text.lower()
    return any(words in lowered for words in _MESSAGES) or cure_for(text) is not None
