"""Compose files, read for the gateways in them. Nothing here writes, starts or prints, and no sentence quotes a value.

places.py        a line of a file, and what is wrong with one
nodes.py         YAML with the line of everything in it
variables.py     `${NAME:-default}` and its kin
env_files.py     `.env` and `env_file:`
secret_files.py  which file of the host is behind a path inside a container
services.py      one service, with what it extends, its override and its files put together
project.py       a compose file with its `.env` and override: which services are gateways
gateways.py      what a service's variables mean: followers, options, logins
counterparts.py  what the image's variables, or Compose's keys, have no counterpart for, and why

A value may be a password that slipped into the wrong line: names, lines and values of a known shape are shown, and nothing else.
"""
