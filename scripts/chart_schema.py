"""`python -m scripts.chart_schema`: writes values.schema.json of the Helm chart. Its part for `settings` is made from infra/settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infra.settings import Settings
from infra.settings.secret_files import secret_settings

CHART = Path(__file__).resolve().parents[1] / "infra" / "deploy" / "chart"
VALUES_SCHEMA = CHART / "values.schema.json"

#: Settings that the chart itself sets, or that belong to the local stack: no value of the chart has them.
SET_BY_CHART = {
    "kafka": ("instance", "ssl_cafile", "ssl_certfile", "ssl_keyfile"),
    "telemetry": ("http_port", "http_host"),
    "promotion": ("host", "port"),
    "stack": None,  # the whole section
    "ready_file": None,
}
#: Settings without which no deployment works. The local stack starts these services itself.
NEEDED = (("kafka", "bootstrap_servers"), ("index", "url"), ("registry", "tracking_uri"), ("base", "url"))
LIBRARY_VARIABLES = (
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
)

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "minLength": 1}
YES_NO: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
POSITIVE: Schema = {"type": "integer", "minimum": 1}
ANY_MAP: Schema = {"type": "object"}
ANY_MAPS: Schema = {"type": "array", "items": {"type": "object"}}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}

REPLICATED = ("streams", "base", "strategies", "reflection", "profiles", "teacher", "sources", "quality")
SINGLE = ("trainer", "promoter")
SCALED = ("streams", "base", "strategies", "reflection", "profiles", "teacher")


def values_schema() -> str:
    definitions = definitions_of_settings()
    needed = {section: [field] for section, field in NEEDED}
    top = _object(
        image=_object(
            ("repository", "tag", "digest", "pullPolicy", "pullSecrets"),
            repository=NAME,
            tag={"type": "string", "not": {"const": "latest"}},
            digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
            pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
            pullSecrets={"type": "array", "items": NAME},
        ),
        settings={
            "allOf": [
                {"$ref": "#/$defs/Settings"},
                {"required": sorted(needed), "properties": {section: {"required": fields} for section, fields in needed.items()}},
            ]
        },
        secretFiles={
            "type": "array",
            "items": _object(
                ("setting", "secret", "key"),
                setting={"enum": sorted(map(".".join, secret_settings(Settings)))},
                secret=NAME,
                key=NAME,
                processes={"type": "array", "minItems": 1, "items": {"enum": [*REPLICATED, *SINGLE, "topics"]}},
            ),
        },
        secretVariables={
            "type": "array",
            "items": _object(("variable", "secret", "key"), variable={"enum": list(LIBRARY_VARIABLES)}, secret=NAME, key=NAME),
        },
        kafkaTls=_object(("secret", "ca", "certificate", "privateKey"), secret=TEXT, ca=TEXT, certificate=TEXT, privateKey=TEXT),
        volumes=ANY_MAPS,
        volumeMounts=ANY_MAPS,
        processes=_object(
            (*REPLICATED, *SINGLE),
            **{name: _process({"replicas": COUNT}, ("enabled", "replicas")) for name in REPLICATED},
            **{name: _process({"storage": _storage()}, ("enabled", "storage")) for name in SINGLE},
        ),
        stopTimeoutS=POSITIVE,
        topicsJob=_object(("enabled",), enabled=YES_NO, settings={"$ref": "#/$defs/Settings"}),
        autoscaling=_autoscaling(),
        disruptionBudgets=_object(("enabled",), enabled=YES_NO),
        networkPolicy=_object(
            ("enabled", "metricsFrom", "promoterFrom", *DESTINATIONS),
            enabled=YES_NO,
            metricsFrom=ANY_MAPS,
            promoterFrom=ANY_MAPS,
            **{name: _object(("ports", "to"), ports={"type": "array", "minItems": 1, "items": PORT}, to=ANY_MAPS) for name in DESTINATIONS},
        ),
        monitoring=_object(
            ("podMonitor", "rules", "runbook", "dashboard", "labels", "everyS"),
            podMonitor=YES_NO,
            rules=YES_NO,
            runbook={"type": "string", "pattern": r"^[^\s#'\"]+$"},
            dashboard=YES_NO,
            labels=TEXTS,
            everyS=POSITIVE,
        ),
        serviceAccount=_object(annotations=TEXTS),
        podAnnotations=TEXTS,
        podLabels=TEXTS,
        priorityClassName=TEXT,
        **{"global": ANY_MAP},  # Helm adds it in a parent chart
    )
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **top, "$defs": definitions}
    return json.dumps(schema, indent=1) + "\n"


DESTINATIONS = ("dns", "kafka", "index", "embedder", "registry", "endpoints", "schemaRegistry", "telemetry")
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


def definitions_of_settings() -> Schema:
    """The definition `Settings`, without secrets and without what the chart sets, and the definitions that it refers to."""
    whole = _without_texts(Settings.model_json_schema())
    definitions = whole.pop("$defs")
    for section, fields in SET_BY_CHART.items():
        if fields is None:
            del whole["properties"][section]
        else:
            for field in fields:
                _remove(definitions, whole, (section, field))
    for parts in secret_settings(Settings):
        _remove(definitions, whole, parts)
    for section, field in NEEDED:
        properties = _referred(definitions, whole, section)["properties"]
        properties[field] = {"type": "string", "minLength": 1} if section == "kafka" else {"type": "string", "pattern": "^https?://"}
    whole["properties"]["domains"]["additionalProperties"] = False  # a name that is no domain's
    definitions["Settings"] = whole
    return {name: definition for name, definition in sorted(definitions.items()) if name == "Settings" or _is_used(name, definitions)}


def _referred(definitions: Schema, schema: Schema, name: str) -> Schema:
    """The definition of the section `name` of this one."""
    found: Schema = definitions[schema["properties"][name]["$ref"].rpartition("/")[2]]
    return found


def _remove(definitions: Schema, whole: Schema, parts: tuple[str, ...]) -> None:
    """Removes a setting, whose last part is the field and the others are the sections that it is in."""
    schema = whole
    for section in parts[:-1]:
        schema = _referred(definitions, schema, section)
    del schema["properties"][parts[-1]]


def _is_used(name: str, definitions: Schema) -> bool:
    return f'"#/$defs/{name}"' in json.dumps(definitions)


def _without_texts(schema: Any) -> Any:
    """Without titles, docstrings and defaults, so that rewording one or another default does not change the schema."""
    if isinstance(schema, list):
        return [_without_texts(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    texts = ("title", "description")
    kept = {name: value for name, value in schema.items() if name != "default" and not (name in texts and isinstance(value, str))}
    return {name: _without_texts(value) for name, value in kept.items()}


def _object(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def _process(own: Schema, required: tuple[str, ...]) -> Schema:
    placement = {"nodeSelector": TEXTS, "tolerations": ANY_MAPS, "affinity": ANY_MAP}
    return _object(required, enabled=YES_NO, resources=ANY_MAP, gpus=COUNT, settings={"$ref": "#/$defs/Settings"}, **placement, **own)


def _storage() -> Schema:
    return _object(("size", "className"), size={"type": "string", "pattern": "^[1-9][0-9]*(Mi|Gi|Ti)$"}, className=TEXT)


def _autoscaling() -> Schema:
    bounds = {"min": POSITIVE, "max": POSITIVE, "lag": POSITIVE}
    processes = {name: _object(tuple(bounds), **bounds) for name in SCALED}
    processes["reflection"] = _object(tuple(bounds), **bounds, vllmWaiting=POSITIVE)
    return _object(
        ("enabled", "authenticationRef", "prometheusUrl", "pollingS", "cooldownS", "processes"),
        enabled=YES_NO,
        authenticationRef=TEXT,
        prometheusUrl={"type": "string", "pattern": "^(https?://.+)?$"},
        pollingS=POSITIVE,
        cooldownS=COUNT,
        processes=_object(**processes),
    )


if __name__ == "__main__":
    VALUES_SCHEMA.write_text(values_schema())
