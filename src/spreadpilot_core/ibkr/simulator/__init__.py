"""An IB Gateway without IBKR: its API on a real socket, its login, its log and its faults, for demos, tests and try-outs.

Standard library only; it imports nothing else of this project.
"""

from __future__ import annotations
