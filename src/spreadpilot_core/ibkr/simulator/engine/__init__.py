"""What a container engine does, for simulated gateways: containers with labels and states, doors, logs, events.

    files        what a host keeps in its directory: lock, address, socket
    feed         a bounded history that readers follow at their own pace: logs, events
    script_book  who gets which faults, accounts, controller and timings (`scripts.json`)
    container    one container: created, given its secret, started, ended
    engine       all of them: unique names, events, removal
    operations   the trail of who did what and when (`operations.jsonl`)
    refusals     how the engine says no
    language     what clients and host say to each other
    requests     what clients may ask for
    door         how a secret comes into a container
    service      the engine over a Unix socket

`spreadpilot_core.ibkr.simulator.host` is the process that holds one engine.
"""

from __future__ import annotations
