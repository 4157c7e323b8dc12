"""`retouch strategies ...`: the options. `cli.strategies_actions` does the work."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run_command

strategies = typer.Typer(help="Methods that personalize answers: which of them answers whom, and which is better.", no_args_is_help=True)


class StrategyName(StrEnum):
    """The values of `schemas.strategies.Strategy`, which `--help` does not import; a test compares the two."""

    ZERO_SHOT = "zero_shot"
    ZERO_SHOT_COT = "zero_shot_cot"
    ICL = "icl"
    RAG = "rag"
    RAG_COT = "rag_cot"
    PAG = "pag"
    PAG_COT = "pag_cot"
    HYDRA = "hydra"
    RPM = "rpm"
    RPO = "rpo"


@strategies.command("list", epilog=EXIT_CODES)
def list_strategies(as_json: Json = False) -> None:
    """List the strategies with their share of users by this command's settings, and their answers in the last hour."""
    from cli import strategies_actions

    run_command(lambda settings: strategies_actions.list_strategies(settings, as_json))


@strategies.command(epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 compared, whatever the verdict, 1 no answers to compare or failed"))
def compare(
    a: Annotated[StrategyName, typer.Argument(metavar="A", help="A strategy, such as `rag`.")],
    b: Annotated[StrategyName, typer.Argument(metavar="B", help="The strategy that is compared with A.")],
    domain: Annotated[str | None, typer.Option(help="Compare in this domain only. Default: over all domains, and in each.")] = None,
    experiment: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the comparison. Default: `strategies.experiment`.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two strategies by the answers to users whom the routing assigned to them. Differences are B minus A.

    The intervals hold at every look, so a verdict may be used as soon as it appears.
    """
    from cli import strategies_actions

    run_command(lambda settings: strategies_actions.compare(settings, a.value, b.value, domain, experiment, as_json))
