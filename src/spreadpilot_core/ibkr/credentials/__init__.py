"""Where logins come from, and the one process that may hold a password: see `courier`."""
