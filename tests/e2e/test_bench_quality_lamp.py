"""`retouch bench quality --data` on LaMP's files with an external endpoint: its official figures are those of `retouch evaluate`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.settings import load
from schemas.ids import is_held_out
from tests.support.openai_server import OpenAiServer, ScriptedAnswer, completion, serving
from tests.support.small_datasets import questions, write_lamp, write_outputs_file
from traffic.datasets.catalog import open_dataset

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900
USERS = 24
INPUT = (
    "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further explanation. review: Review {} was fine."
)
ARMS = ("zero_shot", "rag")

pytestmark = [pytest.mark.integration, pytest.mark.long("it starts a whole stack"), pytest.mark.timeout(2 * TIMEOUT_S)]


def retouch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cli import main; main()", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, timeout=TIMEOUT_S, check=False, capture_output=True, text=True)


def user_split(folder: Path) -> Path:
    """One question for each user, with three earlier reviews of the user."""
    rows = []
    for number in range(1, USERS + 1):
        profile = [{"id": f"{number}0{item}", "text": f"Old {item} of {number}.", "score": str(1 + (number + item) % 5)} for item in range(3)]
        rows.append({"id": str(number), "input": INPUT.format(number), "profile": profile})
    return write_lamp(folder, rows, "LaMP_3", {str(number): str(1 + number % 5) for number in range(1, USERS + 1)})


def respond(body: dict[str, Any]) -> ScriptedAnswer:
    """With the user's items it is right or far off; without it is wrong by one, or writes more than a score."""
    text = "\n".join(message["content"] for message in body["messages"])
    found = re.search(r"Review (\d+) was fine", text)
    if found is None:  # a health check
        return completion("ok")
    number = int(found[1])
    if f"of {number}." in text:
        return completion(str(1 + number % 5) if number % 2 else "5")
    return completion("I would say four." if number % 3 == 0 else str(1 + (number + 1) % 5))


def test_official_figures_of_an_endpoints_answers_are_those_of_evaluate(tmp_path: Path) -> None:
    data, out, settings = user_split(tmp_path / "LaMP_3"), tmp_path / "out", load()
    asked = questions(open_dataset(data).steps(settings.tenant))
    share = settings.trainer.holdout_share
    held_out = {str(one.query.query_id): one for one in asked if is_held_out(settings.tenant, one.query.user, share)}
    assert 3 < len(held_out) < USERS
    with serving(respond) as server:
        endpoint = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-test", "RETOUCH_BASE__MODEL": "big", "RETOUCH_BASE__PROMPT_STYLE": "paper"}
        ended = retouch("bench", "quality", "--quick", "--data", str(data), "--strategies", ",".join(ARMS), "--out", str(out), **endpoint)
    assert ended.returncode in (0, 1), ended.stderr  # 1: an ordering does not hold
    assert "reflection.checkpoint=pico/checkpoints/reflector" in ended.stderr  # the warning about the tiny model beside an endpoint's
    assert_asked(server, len(held_out))

    report = json.loads((out / "quality.json").read_text())
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    golds = write_outputs_file(tmp_path / "golds.json", "LaMP_3", {one.source_id: one.truth for one in held_out.values()})
    official = {}
    for arm in ARMS:
        given = {held_out[one["question"]].source_id: one["answer"] for one in answers if one["arm"] == arm}
        predictions = write_outputs_file(tmp_path / f"{arm}.json", "LaMP_3", given)
        measured = retouch("evaluate", "--task", "LaMP_3", "--golds", str(golds), "--predictions", str(predictions), "--json")
        assert measured.returncode == 0, measured.stderr
        official[arm] = json.loads(measured.stdout)["metrics"]
    assert {arm: report["arms"][arm]["domains"]["product_rating"]["official"] for arm in ARMS} == official
    assert official["zero_shot"] != official["rag"]


def assert_asked(server: OpenAiServer, count: int) -> None:
    """Each question once for each arm, with the model and the key of the settings, and the user's items for RAG alone."""
    assert {request["model"] for request in server.requests} == {"big"} and set(server.keys) == {"Bearer sk-test"}
    prompts = [text for request in server.requests if "Review" in (text := request["messages"][-1]["content"])]
    with_items = [prompt for prompt in prompts if "Old 1 of" in prompt]
    assert (len(with_items), len(prompts)) == (count, 2 * count)
