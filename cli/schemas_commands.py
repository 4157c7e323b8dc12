"""`retouch schemas export|validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.process.command_output import EXIT_CODES, FAILED, OK, Json, run_command, show, show_json, show_table

if TYPE_CHECKING:
    from infra.kafka.contract_check import ContractCheck
    from infra.settings import Settings
    from schemas.topics import Topic

#: The descriptor of standard input.
STDIN = 0

schemas = typer.Typer(help="The contract with platforms: topics, headers, keys and messages.", no_args_is_help=True)


@schemas.command("export", epilog=EXIT_CODES)
def export(
    out: Annotated[Path | None, typer.Option(help="Folder for asyncapi.json and JSON Schemas. Default: prints asyncapi.json.")] = None,
) -> None:
    """Write the contract as an AsyncAPI 3 document and JSON Schemas."""
    run_command(lambda _: _export(out))


@schemas.command("validate", epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 no record is refused, 1 a record is refused, or failed"))
def validate(
    source: Annotated[
        str, typer.Argument(metavar="FILE|TOPIC", help="JSON Lines of messages or CloudEvents events, also as *.gz, - for standard input, or a topic.")
    ],
    topic: Annotated[str | None, typer.Option(help="Topic of the messages of a file, if its lines are no CloudEvents events.")] = None,
    last: Annotated[int, typer.Option(min=1, help="Check the newest records of a topic, about this many.")] = 100_000,
    as_json: Json = False,
) -> None:
    """Check records against the contract; reports by reason, with the first places of each."""
    run_command(lambda settings: _validate(settings, source, topic, last, as_json))


def _validate(settings: Settings, source: str, topic: str | None, last: int, as_json: bool) -> int:
    from dataclasses import asdict

    from infra.errors import BadSetting
    from infra.kafka.contract_check import check_lines, check_topic, topic_named
    from infra.local import running_settings
    from traffic.datasets.files import DataFile

    settings, path, is_stdin = running_settings(settings), Path(source), source == "-"
    of_messages = topic_named(topic, settings) if topic else None
    if of_messages and not is_stdin and not path.exists():
        raise BadSetting(f"--topic {topic} is for a file, and there is no file {source}")
    if is_stdin or (path.exists() and not path.is_file() and not path.is_dir()):
        check = _check_stream(STDIN if is_stdin else path, source, of_messages)
    elif path.exists():
        check = check_lines(DataFile(path).byte_lines(), of_messages)
    else:
        check = check_topic(settings, topic_named(source, settings), last)
    if as_json:
        show_json({"records": check.records, "refused": check.refused, "findings": [asdict(finding) for finding in check.findings]})
    else:
        if check.findings:
            rows = [(finding.severity.value, str(finding.count), finding.reason, ", ".join(finding.first)) for finding in check.findings]
            show_table(("", "records", "reason", "first places"), rows)
        show(f"{check.records} records, {check.refused} refused")
    return FAILED if check.refused else OK


def _check_stream(opened: int | Path, name: str, topic: Topic | None) -> ContractCheck:
    """Checks a pipe or a terminal, which is read once: at a path, or an open descriptor. Raises BadData."""
    from infra.kafka.contract_check import check_lines
    from traffic.datasets.files import BadData, stream_lines

    try:
        with open(opened, "rb", closefd=opened != STDIN) as file:
            check = check_lines(stream_lines(file, name), topic)
    except OSError as error:
        raise BadData(f"{name}: cannot be read: {error.strerror or error}") from None
    if not check.records:
        raise BadData(f"{name}: holds no record; write JSON Lines of messages or CloudEvents events into it")
    return check


def _export(out: Path | None) -> None:
    from importlib.metadata import version

    from infra.process import output_files
    from schemas.asyncapi import files

    contents = files(version("retouch"))
    if out is None:
        show(contents["asyncapi.json"].rstrip("\n"))
        return
    for name in contents:
        output_files.check_writable(out / name)
    for name, content in contents.items():
        output_files.write(out / name, content)
    show(f"{len(contents)} files in {out}")
