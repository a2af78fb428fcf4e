"""Logins from the embedded store: one file in the state directory, sealed entry by entry."""
