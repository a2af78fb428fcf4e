"""What clients and the host of simulated gateways say to each other: one JSON object a line, each way, on a Unix socket.

A connection's first line is a greeting, which the host answers; then come requests (see `requests`), each answered before
the next is read. Whoever got no answer to the greeting asked for nothing yet.

    > {"op": "hello", "owner": OWNER, "identities": [IDENTITY, …], "manager": MANAGER}
    < {"ok": true, "protocol": 2, "host": HOST, "pid": PID}
    > {"op": "create", "order": {…}}
    < {"ok": true, "container": {…}}                         or {"error": CODE, "sentence": "…"}

`events` and `log` turn the connection into a stream: one answer, then a line for each fact until either side closes. A
log that ends with its container says `{"end": true}` first. A connection that begins with `{"attach": CONTAINER}` is a
container's door (see `door`). What can't be understood is answered by an error and a close.

Three requests serve tests: `answer_late` (an operation is carried out at once and answered after some seconds),
`drop_streams` (every other connection is cut) and `shutdown` (the host ends as by SIGTERM).
"""

from __future__ import annotations

PROTOCOL = 2
"""Raised with every change that an older client or host would misunderstand."""
LONGEST_LINE = 1 << 20
"""Bytes of a request, and of what a stream tells at once."""
LONGEST_ANSWER = 1 << 26
"""Bytes: a list has some 600 for each container."""
