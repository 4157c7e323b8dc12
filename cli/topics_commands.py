"""`retouch topics apply|describe`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.process.command_output import EXIT_CODES, FAILED, OK, Json, run_command, show, show_json, show_table

if TYPE_CHECKING:
    from infra.kafka.topology import TopicState
    from infra.settings import Settings

topics = typer.Typer(help="The topics on the broker.", no_args_is_help=True)


@topics.command("apply", epilog=EXIT_CODES)
def apply_topics(as_json: Json = False) -> None:
    """Create missing topics and raise limits; nothing is deleted or lowered."""
    run_command(lambda settings: _apply(settings, as_json))


@topics.command("describe", epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 no record is lost, 1 a topic is missing, loses or refuses records, or failed"))
def describe_topics(as_json: Json = False) -> None:
    """Compare the topics on the broker with the declared ones, and show what each difference does."""
    run_command(lambda settings: _describe(settings, as_json))


def _apply(settings: Settings, as_json: bool) -> None:
    from infra.kafka.topology import apply_topology
    from infra.local import running_settings

    applied = apply_topology(running_settings(settings))
    text = f"created {len(applied.created)}: {', '.join(applied.created) or 'none'}; limits raised: {', '.join(applied.raised) or 'none'}"
    show_json({"created": applied.created, "raised": applied.raised}) if as_json else show(text)


def _describe(settings: Settings, as_json: bool) -> int:
    from infra.kafka.topology import describe_topology
    from infra.local import running_settings

    description = describe_topology(running_settings(settings))
    if as_json:
        show_json(description.as_data())
    else:
        show_table(("topic", "partitions", "", "against the declaration"), [row for topic in description.topics for row in _rows(topic)])
        if description.undeclared:
            show(f"not declared: {', '.join(description.undeclared)}")
    return OK if description.keeps_records else FAILED


def _rows(topic: TopicState) -> list[tuple[str, str, str, str]]:
    """One row for each difference."""
    if not topic.exists:
        return [(topic.name, "0", "missing", "create it with `retouch topics apply`")]
    if not topic.differences:
        return [(topic.name, str(topic.partitions), "", "as declared")]
    return [(topic.name, str(topic.partitions), difference.severity.value, str(difference)) for difference in topic.differences]
