"""Who should have a gateway, and what must survive the manager.

rosters.py            documents of any store -> usable and faulty followers
documents.py          what must survive <-> documents of any store
login_budget.py       when a login may be reserved, as a pure rule
sqlite_file.py        one SQLite file, off the event loop, with whole transactions

local.py              the embedded store, chosen by `local:`
  local_followers.py    `followers.toml`, watched
  followers_file.py     `followers.toml` read, and edited with its comments kept
  local_records.py      records in SQLite

mongodb.py            the store in MongoDB, chosen by `mongodb:`
  mongo_database.py     the only module that knows pymongo
  mongo_followers.py    the collection `followers`, by change stream or polled
  mongo_records.py      what other services read, and what must survive
  mongo_logins.py       the login ledger
  mongo_versions.py     documents that several managers change
  outbox.py             what waits on this host while MongoDB is away
  term.py               which of several managers acts
"""
