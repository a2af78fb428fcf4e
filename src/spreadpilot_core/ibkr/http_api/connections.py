"""A listening socket that takes no more connections than it should, also those that have said nothing yet."""

from __future__ import annotations

import socket
from collections import Counter
from typing import Any

from spreadpilot_core.ibkr.http_api.peers import network_of


class LimitedSocket(socket.socket):
    """Closes at once what is too much: altogether, or from one peer. Whoever is in the middle of a TLS handshake counts."""

    most: int
    most_of_a_peer: int
    _open: Counter[str]

    @classmethod
    def of(cls, listening: socket.socket, *, most: int, most_of_a_peer: int) -> LimitedSocket:
        """Takes this socket over."""
        # said to be TCP, which `create_server` leaves open: asyncio sends at once on such a connection alone (TCP_NODELAY),
        # and each answer waits 40 ms for the client's acknowledgement of its head on another
        limited = cls(listening.family, listening.type, socket.IPPROTO_TCP, listening.detach())
        limited.most, limited.most_of_a_peer, limited._open = most, most_of_a_peer, Counter()
        return limited

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection. Raises `ConnectionAbortedError` where it was one too many and is closed."""
        connection, address = super().accept()
        peer = network_of(str(address[0]))
        if self._open.total() >= self.most or self._open[peer] >= self.most_of_a_peer:
            connection.close()
            raise ConnectionAbortedError
        return _Counted.of(connection, peer, self._open), address


class _Counted(socket.socket):
    """Counts as long as it is open."""

    _peer: str
    _among: Counter[str] | None

    @classmethod
    def of(cls, connection: socket.socket, peer: str, among: Counter[str]) -> _Counted:
        counted = cls(connection.family, connection.type, connection.proto, connection.detach())
        counted._peer, counted._among = peer, among
        among[peer] += 1
        return counted

    def close(self) -> None:
        super().close()
        among, self._among = self._among, None
        if among is not None:
            among[self._peer] -= 1
            if among[self._peer] <= 0:
                del among[self._peer]
