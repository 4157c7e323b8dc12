"""Commands that run a whole stack keep its records and versions in broker, index and registry of their own, in `OUT/state`."""

from __future__ import annotations

from operator import attrgetter

from infra.errors import BadSetting
from infra.settings import Settings

#: Settings of other stores, with their usual variables. The run would leave its records there, and make its versions champion.
FOREIGN = {"kafka.bootstrap_servers": "KAFKA_BOOTSTRAP_SERVERS", "index.url": "QDRANT_URL", "registry.tracking_uri": "MLFLOW_TRACKING_URI"}


def check_own_stores(settings: Settings) -> None:
    """Raises BadSetting if the settings name a broker, an index or a registry."""
    if foreign := [f"{name} ({variable})" for name, variable in FOREIGN.items() if attrgetter(name)(settings) is not None]:
        raise BadSetting(f"{', '.join(foreign)}: must not be set; this command has its own broker, index and registry in OUT/state")
