"""Logins from HashiCorp Vault or OpenBao."""
