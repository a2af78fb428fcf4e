"""HTTP with JSON on a Unix socket: what the commands and other programs ask of a running manager."""
