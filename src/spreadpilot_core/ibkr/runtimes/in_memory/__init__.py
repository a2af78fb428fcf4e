"""The runtime in memory: gateways of the simulator without a process, a file or a socket, for tests of what stands above.

engine.py   what runs them, and what can go wrong with it
network.py  their ports and addresses, and connections to them
runtime.py  `InMemoryRuntime`, shaped like Docker, and `InMemoryPods`, shaped like Kubernetes
"""
