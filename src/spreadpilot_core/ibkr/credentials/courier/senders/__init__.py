"""How the courier reaches a container that waits for its secret: one file for each kind of delivery target, named as the kind.

A file has `send(target, secret, timeout)`, which attaches once and raises `OSError`, `KeyError` or `ValueError` when it is not certain
that all of it arrived. A file loads only when its kind is asked for. A new runtime adds its own here.
"""
