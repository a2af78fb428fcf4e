"""The store in MongoDB, chosen by the URL `mongodb:`; its address is `mongo_uri`, its database `mongo_db_name`."""

from __future__ import annotations

from spreadpilot_core.ibkr.store.mongo_followers import MongoFollowers
from spreadpilot_core.ibkr.store.mongo_records import MongoRecords

__all__ = ["MongoFollowers", "MongoRecords"]
