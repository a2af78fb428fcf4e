"""`doctor`: looks at everything the manager needs, and says in one line each how it is and what to do.

findings.py            what a check finds
command.py             runs all checks at once, each within its time, and prints what they found
machine_checks.py      state directory, clock, descriptors, a running manager
store_checks.py        followers and records
credential_checks.py   the encrypted store, Vault, every enabled follower's reference
runtime_checks.py      finds the checks of the runtime by its name
docker_checks.py       engine, image, network
kubernetes_checks.py   cluster, rights, a pod tried and not made, storage, and two pods that try a network policy
simulated_checks.py    the host of simulated gateways
port_checks.py         the port range; port_holders.py tells who has a port

Every check only looks: nothing is left, started, adopted or logged in, and no password is read where its version can be
told without.
"""
