"""Where gateways run: one adapter of `seams.GatewayRuntime` per folder, loaded when its URL is chosen.

registry.py           which runtimes there are, by the URL's scheme
reader.py             looking at gateways from beside a running manager
create_then_start.py  a launch where containers run nothing before they are started
host_ports.py         the ports of this host that gateways are published on
simulator_containers.py  the simulator's words for containers, for both runtimes that use its engine
wrapper.py            the shell program that a gateway's container starts with
images.py             what the image says of itself, and what it wants
identity.py           which manager this is
"""

from __future__ import annotations
