"""The two programs that type a gateway's login, as far as their log, their exit codes and their loops can be seen.

One module walks each one's life, one holds its text. They act on a `Container` and know nothing of each other.
"""

from __future__ import annotations
