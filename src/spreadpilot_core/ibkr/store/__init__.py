"""Who should have a gateway, and what must survive the manager.

rosters.py            documents of any store -> usable and faulty followers
documents.py          what must survive <-> documents of any store
login_budget.py       when a login may be reserved, as a pure rule
local.py              the embedded store, chosen by `local:`
  local_followers.py    `followers.toml`, watched
  followers_file.py     `followers.toml` read, and edited with its comments kept
  local_records.py      records in SQLite
  sqlite_file.py        one SQLite file, off the event loop, with whole transactions
"""
