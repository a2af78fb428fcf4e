"""Where gateways run: one adapter of `protocols.GatewayRuntime` per module, loaded when its URL is chosen."""

from __future__ import annotations
