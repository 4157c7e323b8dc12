"""Checks a checkpoint's JSON files: they may not name code to run, unsafe chat templates, or other folders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.checkpoints.chat_templates import why_refused

#: Keys of an adapter's config. PEFT loads the base model from any path, and imports the module in `auto_mapping`.
_ADAPTER_REFERENCES = ("base_model_name_or_path", "auto_mapping")


def why_json_refused(name: str, content: Any) -> str | None:
    """Why the JSON file `name` with this `content` must not be in a checkpoint; None if it may."""
    try:
        return _why_json_refused(name, content)
    except RecursionError:
        return "nested too deeply"


def _why_json_refused(name: str, content: Any) -> str | None:
    if not name.endswith("config.json") and name != "chat_template.json":
        return None
    if not isinstance(content, dict):
        return "not a JSON object"
    if _holds(content, "auto_map"):
        return "auto_map names code to run"
    for key, value in _texts(content):
        if key.endswith("attn_implementation") and "/" in value:
            return f"{key} names code to fetch: {value!r}"
    if name == "adapter_config.json" and (reason := _why_adapter_refused(content)):
        return reason
    return next((f"chat_template: {why}" for template in _templates(content.get("chat_template")) if (why := why_refused(template))), None)


def _why_adapter_refused(config: dict[str, Any]) -> str | None:
    for key in _ADAPTER_REFERENCES:
        if config.get(key):
            return f"{key} must be empty: an adapter belongs to the weights beside it"
    for key, value in _texts(config):
        if value.startswith(("/", "~")) or "://" in value or "\\" in value or ".." in value.split("/"):
            return f"{key} leaves the checkpoint: {value!r}"
    return None


def _templates(value: Any) -> Iterator[str]:
    """The template, or several named ones. Any other value is returned as text, which is then refused as a template."""
    if isinstance(value, list):
        for entry in value:
            yield from _templates(entry.get("template") if isinstance(entry, dict) else entry)
    elif isinstance(value, dict):
        for template in value.values():
            yield from _templates(template)
    elif value is not None:
        yield str(value)


def _holds(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_holds(part, key) for part in value.values())
    return isinstance(value, list) and any(_holds(part, key) for part in value)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON value, with its key."""
    if isinstance(value, str):
        yield key, value
    for part_key, part in value.items() if isinstance(value, dict) else ((key, part) for part in value) if isinstance(value, list) else ():
        yield from _texts(part, part_key)
