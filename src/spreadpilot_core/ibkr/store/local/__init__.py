"""The embedded store: `followers.toml` for people, one SQLite file for the manager."""
