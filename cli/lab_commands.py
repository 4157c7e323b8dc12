"""`retouch lab`: injects faults, and checks the invariants afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run_command

lab = typer.Typer(help="Inject faults, and check the invariants afterwards.", no_args_is_help=True)
ANOMALIES = EXIT_CODES.replace("0 ok, 1 failed", "0 no anomaly, 1 anomalies or failed")


@lab.command(epilog=ANOMALIES)
def chaos(
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="Minutes of load; the stack's start and its recovery are added.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Seed of the fault plan and of the load.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report, the picture, the records sent and read, and the stack's state. Default: nothing is kept.")
    ] = None,
    ordered: Annotated[bool, typer.Option("--ordered", help="Answers out of a user's order are anomalies: for deployments that ask for order by key.")] = False,
    as_json: Json = False,
) -> None:
    """Run the local stack under load, kill, pause and cut off its parts, and count what was lost or answered twice."""
    from lab.chaos import command

    run_command(lambda settings: command.run(settings, minutes=minutes, seed=seed, out=out, ordered=ordered, as_json=as_json))


@lab.command(epilog=ANOMALIES)
def cluster_chaos(
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often each fault is injected; a round takes about five minutes.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the choice of nodes and of the load.")] = 0,
    queries_per_s: Annotated[float, typer.Option(min=0.1, max=1000, help="Questions per second.")] = 8.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report, the picture, the records sent and read, and all state. Default: nothing is kept.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the processes on a cluster of three nodes under load: a node away, an unclean restart, a controller failover, a rolling restart."""
    from lab.chaos import cluster_command

    run_command(
        lambda settings: cluster_command.run(settings, rounds=rounds, seed=seed, queries_per_s=queries_per_s, out=out, as_json=as_json),
    )


@lab.command(epilog=EXIT_CODES)
def cluster(
    out: Annotated[Path | None, typer.Option(help="State directory: data, certificates, passwords, settings files, logs. Default: stack.dir/cluster.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="A user, with a password in NAME.password; may be repeated. Default: retouch.")] = None,
    deployment: Annotated[
        bool, typer.Option("--deployment", help="A user for each process and the platform, such as retouch-base, with the rights that it needs.")
    ] = False,
    tls: Annotated[bool, typer.Option("--tls/--no-tls", help="Encrypted connections, with certificates of an authority of the cluster's own.")] = True,
    scram: Annotated[bool, typer.Option("--scram/--no-scram", help="Users with passwords, by SCRAM-SHA-512.")] = True,
    acls: Annotated[bool, typer.Option("--acls/--no-acls", help="A user may do only what an ACL allows.")] = True,
) -> None:
    """Run a Kafka cluster of three nodes on this machine until Ctrl-C, to try a deployment on; it keeps its data."""
    from lab.cluster import command
    from lab.cluster.layout import Security

    security = Security(tls=tls, scram=scram, acls=acls)
    run_command(lambda settings: command.run(settings, out=out, users=user or (), deployment=deployment, security=security))


@lab.command(epilog=ANOMALIES)
def simulate(
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, counted from `--seed`.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    trace: Annotated[bool, typer.Option("--trace", help="Print every step of the first seed, and its verdict.")] = False,
    as_json: Json = False,
) -> None:
    """Run the worker runtime on an in-memory broker in virtual time, with faults at every step between poll and commit."""
    from lab.simulate import command

    run_command(lambda settings: command.run(first=seed, seeds=seeds, trace=trace, as_json=as_json))


@lab.command(epilog=ANOMALIES)
def promotion(
    kills: Annotated[
        int, typer.Option(min=0, max=10_000, help="Number of kills at boundaries between two writes; about a hundred cover each boundary once. 0: none.")
    ] = 100,
    live: Annotated[
        int,
        typer.Option(min=0, max=10_000, help="Number of kills of promoter, worker and registry of a running system; 51 cover each transition. 0: none."),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the plan of live kills and of the users' queries.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write report.json to this folder too, and keep logs and registries there.")] = None,
    as_json: Json = False,
) -> None:
    """Kill promoters right before and after each write, and processes of a running system at its transitions; compare with a run without kills."""
    from lab.promotion import command

    run_command(lambda settings: command.run(settings, kills=kills, live=live, seed=seed, out=out, as_json=as_json))
