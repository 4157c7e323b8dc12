"""Sockets of kafka-python's connections. Ours differ from those of 3.0.12 in four things:

- every error is a KafkaConnectionError, also where the connection breaks while it is made, as when a broker with TLS dies at that moment. An OSError would
  end the client's loop that refreshes metadata, which is never started again: the client would stay with its old leaders;
- a socket whose connection or TLS handshake fails is closed;
- the TLS handshake has a bound;
- an answer that arrives together with the end of the connection is read: a broker that refuses a login answers, then closes.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from kafka.errors import KafkaConnectionError, KafkaError
from kafka.net.inet import KafkaNetSocket
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport


async def open_transport(net: Any, host: str, port: int, config: Mapping[str, Any], timeout_at: float | None) -> Any:
    """A transport to the first address of the host that takes the connection, after the TLS handshake. Raises KafkaConnectionError with its cause."""
    sock = await _connected(net, host, port, config["socket_options"], timeout_at)
    try:
        if config["security_protocol"] in ("SSL", "SASL_SSL"):
            transport: Any = _Tls(net, sock, host=host, **{key: value for key, value in config.items() if key.startswith("ssl_")})
            sock = transport._sock  # the given one is detached
            await transport.handshake_until(timeout_at)
        else:
            transport = _Tcp(net, sock, host=host)
    except BaseException as error:  # also the end of the task
        sock.close()
        if not isinstance(error, Exception):
            raise
        raise KafkaConnectionError(f"TLS failed: {error}") from error
    return transport


async def _connected(net: Any, host: str, port: int, options: Any, timeout_at: float | None) -> Any:
    addresses = KafkaNetSocket()
    failed: Exception = KafkaConnectionError("DNS Resolution failure")
    for family, kind, protocol, _, address in addresses.dns_lookup(host, port):
        sock = addresses.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            for option in options:
                sock.setsockopt(*option)
            return await addresses.sock_connect(net, sock, address, timeout_at=timeout_at)
        except (OSError, KafkaError) as error:
            sock.close()
            failed = error
        except BaseException:
            sock.close()
            raise
    raise KafkaConnectionError(failed) from failed


class _LastAnswer:
    def _sock_recv(self) -> tuple[bytes, Any]:
        data, error = super()._sock_recv()  # type: ignore[misc]
        return (data, None) if data else (data, error)  # the next read returns the error again


class _Tcp(_LastAnswer, KafkaTCPTransport):  # type: ignore[misc]  # the client has no types
    """Without TLS."""


class _Tls(_LastAnswer, KafkaSSLTransport):  # type: ignore[misc]
    async def handshake_until(self, timeout_at: float | None) -> None:
        while True:
            try:
                self._sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self._net.wait_read(self._sock, timeout_at)
            except ssl.SSLWantWriteError:
                await self._net.wait_write(self._sock, timeout_at)
