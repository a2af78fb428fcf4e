"""The embedded store, chosen by the URL `local:[DIRECTORY]`: a file for people, and a database file for the manager."""

from __future__ import annotations

from spreadpilot_core.ibkr.store.local_followers import LocalFollowers
from spreadpilot_core.ibkr.store.local_records import LocalRecords

__all__ = ["LocalFollowers", "LocalRecords"]
