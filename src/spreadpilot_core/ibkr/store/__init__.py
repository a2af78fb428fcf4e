"""Who should have a gateway, and what must survive the manager.

registry.py           which stores there are, by the URL's scheme
rosters.py            documents of any store -> usable and faulty followers
hints.py              what a follower store says to who listens
documents.py          what must survive <-> documents of any store
login_budget.py       when a login may be reserved, as a pure rule
sqlite_file.py        one SQLite file, off the event loop, with whole transactions

in_memory.py          a whole store without file or server
outbox.py             what waits on this host while a store is away
outboxed_records.py   any record store, with such an outbox
unknown_fields.py     names in a record that nothing here reads, and which of them are slips

local/                the embedded store, chosen by `local:`
  store.py              makes its adapters
  followers.py          `followers.toml`, watched
  followers_file.py     `followers.toml` read, and edited with its comments kept
  records.py            records in SQLite

mongodb/              the store in MongoDB, chosen by `mongodb:`
  store.py              makes its adapters
  database.py           the only module that knows pymongo
  followers.py          the collection `followers`, by change stream or polled
  records.py            what other services read, and what must survive
  logins.py             the login ledger
  versions.py           documents that several managers change
"""
