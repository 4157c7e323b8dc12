"""`retouch topics apply|describe|acls`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from infra.process.command_output import EXIT_CODES, FAILED, OK, Json, run_command, show, show_error, show_json, show_table

if TYPE_CHECKING:
    from infra.kafka.rights import Right
    from infra.kafka.topology import TopicState
    from infra.settings import Settings

topics = typer.Typer(help="The topics on the broker, and the rights on it.", no_args_is_help=True)


@topics.command("apply", epilog=EXIT_CODES)
def apply_topics(as_json: Json = False) -> None:
    """Create all topics that processes need and that are missing, and raise limits; nothing is deleted or lowered."""
    run_command(lambda settings: _apply(settings, as_json))


@topics.command(
    "describe", epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 no record is lost, 1 a topic is missing, not shown, loses or refuses records, or failed")
)
def describe_topics(as_json: Json = False) -> None:
    """Compare the topics on the broker with the declared ones, and show what each difference does."""
    run_command(lambda settings: _describe(settings, as_json))


@topics.command("acls", epilog=EXIT_CODES)
def print_acls(
    principal: Annotated[str, typer.Option(help="Kafka's name of the user that gets the rights, such as User:retouch.")],
    process: Annotated[list[str] | None, typer.Option(help="Only these, such as streams or 'workers base'. Repeatable. Default: all.")] = None,
    bootstrap_server: Annotated[str | None, typer.Option(help="The broker in the commands. Default: kafka.bootstrap_servers.")] = None,
    command_config: Annotated[str | None, typer.Option(help="The properties file in the commands, with the credentials of an administrator.")] = None,
    platform_group: Annotated[str | None, typer.Option(help="The consumer group in which the platform reads responses.")] = None,
    optional: Annotated[
        bool,
        typer.Option(
            "--optional", help="Also rights without which processes work: to compare topic settings at each start, to redrive records of sources.toml."
        ),
    ] = False,
    idempotent_write: Annotated[bool, typer.Option("--idempotent-write", help="Also the right that brokers before Kafka 2.8 need for producers.")] = False,
    as_json: Json = False,
) -> None:
    """Print the exact rights of each process, as commands for Kafka's own kafka-acls.sh. Connects to no broker and changes nothing.

    Rights are printed for the names in the settings: kafka.topic_prefix, kafka.group_prefix. READ and WRITE include DESCRIBE.
    """

    def body(settings: Settings) -> None:
        from infra.errors import BadSetting
        from infra.kafka.acl_commands import as_data, commands
        from infra.kafka.rights import PROCESSES

        if unknown := [name for name in process or () if name not in PROCESSES]:
            raise BadSetting(f"--process {unknown[0]}: must be one of {', '.join(PROCESSES)}")
        if not all(map(str.strip, principal.partition(":"))):
            raise BadSetting(f"--principal {principal}: must be a type and a name, such as User:retouch")
        for option, text in (("--principal", principal), ("--platform-group", platform_group or "")):
            if not text.isprintable():
                raise BadSetting(f"{option} {text!r}: must be one line without control characters")
        rights = {name: _rights(settings, name, optional, idempotent_write, platform_group) for name in PROCESSES if name in (process or PROCESSES)}
        if as_json:
            show_json({name: as_data(principal, found) for name, found in rights.items()})
            return
        connection = ["--bootstrap-server", bootstrap_server or settings.bootstrap_servers()]
        connection += ["--command-config", command_config] if command_config else []
        for name, found in rights.items():
            show("\n".join([f"# {name}{_note(name, found, platform_group)}", *commands(principal, found, connection)]))

    run_command(body)


def _note(process: str, rights: Sequence[Right], platform_group: str | None) -> str:
    """What is missing in the commands of a process."""
    from infra.kafka.rights import PLATFORM

    if not rights:
        return ": no rights, because sources.file is not set"
    return ": without its consumer group, which --platform-group names" if process == PLATFORM and not platform_group else ""


def _rights(settings: Settings, process: str, optional: bool, idempotent_write: bool, platform_group: str | None) -> list[Right]:
    from infra.kafka.rights import PLATFORM, platform_group_right, process_rights
    from infra.kafka.rights import idempotent_write as cluster_rights

    rights = [right for right in process_rights(settings, process) if optional or not right.is_optional]
    if process == PLATFORM and platform_group:
        rights.append(platform_group_right(platform_group))
    return [*rights, *(cluster_rights(settings, process) if idempotent_write else ())]


def _apply(settings: Settings, as_json: bool) -> None:
    from infra.kafka.topology import apply_topology
    from infra.local import running_settings

    applied = apply_topology(running_settings(settings))
    text = f"created {len(applied.created)}: {', '.join(applied.created) or 'none'}; limits raised: {', '.join(applied.raised) or 'none'}"
    show_json({"created": applied.created, "raised": applied.raised, "not_compared": applied.not_compared}) if as_json else show(text)
    if applied.not_compared and not as_json:
        listed = ", ".join(applied.not_compared)
        show_error(
            f"not compared, because this user lacks DESCRIBE_CONFIGS on them: {listed}; `retouch topics acls` prints the rights of `retouch topics apply`"
        )


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
    from infra.kafka.topology import Visibility

    if topic.visibility is Visibility.NONE:
        return [(topic.name, "", "not shown", "this user lacks DESCRIBE on it, so it may exist or not; `retouch topics acls` prints the rights")]
    if not topic.exists:
        return [(topic.name, "0", "missing", "create it with `retouch topics apply`")]
    partitions = str(topic.partitions)
    rows = [(topic.name, partitions, difference.severity.value, str(difference)) for difference in topic.differences]
    if topic.visibility is Visibility.WITHOUT_SETTINGS:
        rows.append((topic.name, partitions, "not shown", "its settings: this user lacks DESCRIBE_CONFIGS on it; `retouch topics acls` prints the rights"))
    return rows or [(topic.name, partitions, "", "as declared")]
