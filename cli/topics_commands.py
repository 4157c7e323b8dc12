"""`retouch topics apply|describe`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.process.command_output import FAILED, OK, show, show_json, show_table

if TYPE_CHECKING:
    from infra.kafka.topology import TopicState
    from infra.settings import Settings


def apply_topics(settings: Settings, as_json: bool) -> int:
    from infra.kafka.topology import apply
    from infra.local import running_settings

    applied = apply(running_settings(settings))
    if as_json:
        show_json({"created": applied.created, "raised": applied.raised})
    else:
        show(f"created {len(applied.created)}: {', '.join(applied.created) or 'none'}; limits raised: {', '.join(applied.raised) or 'none'}")
    return OK


def describe_topics(settings: Settings, as_json: bool) -> int:
    from infra.kafka.topology import describe
    from infra.local import running_settings

    description = describe(running_settings(settings))
    if as_json:
        show_json(description.as_data())
    else:
        show_table(("topic", "partitions", "against the declaration"), [(t.name, str(t.partitions), _verdict(t)) for t in description.topics])
        if description.undeclared:
            show(f"not declared: {', '.join(description.undeclared)}")
    return OK if description.as_declared else FAILED


def _verdict(topic: TopicState) -> str:
    if not topic.exists:
        return "missing"
    return "; ".join(f"{d.name} is {d.actual}, declared {d.declared}" for d in topic.differences) or "as declared"
