"""Simulated gateways in a host process of their own, for the demo, try-outs and tests."""
