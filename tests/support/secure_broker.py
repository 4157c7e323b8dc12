"""A broker with listeners that platforms have: mutual TLS, SASL PLAIN over TLS, and SASL OAUTHBEARER over TLS, beside the plain one.

The listener with OAUTHBEARER takes unsigned JWTs, as Kafka does without a configured validator. It ends sessions with their token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.kafka.topology import apply_topology
from infra.local.broker import Broker
from infra.process.ports import free_port
from infra.settings import Settings, load
from lab.cluster.certificates import Authority

USER, PASSWORD = "ada", "right-password"
PROTOCOLS = {"MTLS": "SSL", "PASSWORD": "SASL_SSL", "TOKEN": "SASL_SSL"}
#: Longest session of a client with a token.
SESSION_MS = 3_600_000
_LOGIN = "org.apache.kafka.common.security"


class SecureBroker(Broker):
    """`ports` has the port of each listener of PROTOCOLS. `authority` signs the broker's certificate, and the clients'."""

    def __init__(self, settings: Settings, authority: Authority) -> None:
        super().__init__(settings)
        self.ports = {name: free_port(settings.stack.host) for name in PROTOCOLS}
        self._cafile = authority.cafile
        certfile, keyfile = authority.sign("broker")
        self._keystore = authority.directory / "broker-store.pem"
        self._keystore.write_bytes(keyfile.read_bytes() + certfile.read_bytes())

    def _properties(self, controller: int, data: str) -> dict[str, str]:
        properties = super()._properties(controller, data)
        added = {name: f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()}
        for setting in ("listeners", "advertised.listeners"):
            properties[setting] = ",".join((properties[setting], *added.values()))
        protocols = (f"{name}:{protocol}" for name, protocol in PROTOCOLS.items())
        properties["listener.security.protocol.map"] = ",".join((properties["listener.security.protocol.map"], *protocols))
        return properties | {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self._cafile),
            "listener.name.mtls.ssl.client.auth": "required",
            "listener.name.password.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.password.plain.sasl.jaas.config": f'{_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
            "listener.name.token.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.token.oauthbearer.sasl.jaas.config": f"{_LOGIN}.oauthbearer.OAuthBearerLoginModule required;",
            "connections.max.reauth.ms": str(SESSION_MS),
        }


@contextmanager
def secure_broker(directory: Path, authority: Authority) -> Iterator[SecureBroker]:
    """A new one with all declared topics."""
    with SecureBroker(load(stack={"dir": directory}), authority) as running:
        apply_topology(load(kafka={"bootstrap_servers": running.bootstrap_servers}))
        yield running
