"""Names of topics and groups get their prefixes in one place: no other module makes a Kafka client, or uses Faust's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "infra", "streams", "workers", "trainer", "traffic", "pico", "bench", "lab", "cli")
#: Clients by the modules, or folders, that may use them. The local broker asks only whether it answers.
CLIENTS: dict[str, tuple[str, ...]] = {
    "KafkaProducer": ("infra/kafka/named_clients.py",),
    "KafkaConsumer": ("infra/kafka/named_clients.py",),
    "KafkaAdminClient": ("infra/kafka/named_clients.py", "infra/local/broker.py"),
    "aiokafka": ("streams/app/",),
    "faust": ("streams/app/",),
    "confluent_kafka": (),
}


def imports(path: Path) -> set[str]:
    """Top-level packages and names that a module imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module.split(".")[0], *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found & CLIENTS.keys()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_used_where_names_are_converted(client: str) -> None:
    users = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py") if client in imports(path)}
    assert {user for user in users if not user.startswith(CLIENTS[client])} == set()


def test_faust_gets_no_declared_name_of_a_topic() -> None:
    tree = ast.parse((ROOT / "streams/app/app.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    given = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) in ("app.topic", "app.producer.send", "app.send")]
    assert given == ["*topics", "app.transport.names.topic(r.topic)"]
