"""Gateways in containers on this host's Docker Engine: the default runtime."""
