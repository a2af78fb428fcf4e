"""Names that say that what bears them is a secret."""

from __future__ import annotations

import re

_SECRET_NAMES = re.compile(
    r"(^|[_-])(pass|password|passwd|pwd|passphrase|secret|secret_id|token|authorization|api_?key|private_key|cookie)$",
    re.IGNORECASE,
)


def is_secret_name(name: str) -> bool:
    """Whether what bears this name is a secret."""
    return _SECRET_NAMES.search(name) is not None
