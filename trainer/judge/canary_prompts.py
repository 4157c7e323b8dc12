# axes are capital letters, as in trainer.learn.rollout
"""Canary prompts: what a version greedily writes after made-up prompts, so that a worker can see whether it loaded those weights (`schemas.promotion`).

Another engine adds in another order, and perhaps in bfloat16, so the tokens end before the first whose logit leads by less than `MARGIN`; they also end
before an end token and before the answer is complete, where a server would stop. Of the prompts made up here those are kept that tell most: first those
after which the version writes other tokens than the champion, which tells old weights from new; then the longest.

Axes: P prompts, T tokens, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import torch

from schemas.ids import derive
from schemas.promotion import CanaryPrompt
from schemas.prompts import PromptStyle, reflection_prompt
from schemas.queries import Query
from schemas.rewriting import TAGS
from schemas.tasks import MOVIE_TAGS, STARS
from trainer.data.prompts import Prompter
from trainer.learn.policy import Policy
from trainer.learn.rollout import SamplingOptions, generate, padded
from trainer.learn.shared_prompt import SharedPrompt

#: Between the likeliest token and the next, in logits: bfloat16 moved single ones of the shipped reflector by at most 0.28 (2026-11-21).
MARGIN = 1.0
#: Tokens of a prompt at most; of one of the prompts at least, or the version cannot be told from another by them.
LENGTH, ENOUGH = 16, 4
KEPT = 6


class _Item(NamedTuple):
    content: str
    response: str


_LABELS = (
    ("a boy wakes a magic dragon , told lightly", "a girl finds a hidden door to another world", "fantasy", "sci-fi"),
    ("a stranger chases a killer by car , told sharply", "a woman defuses a hidden bomb", "action", "violence"),
    ("a man writes a love letter , told with charm", "a neighbor keeps a promise of love", "romance", "classic"),
    ("somebody plays a silly prank on the mayor", "a child tells a joke at a funeral", "comedy", "dark comedy"),
)
_RATINGS = (
    ("the kettle works well and looks nice", "the lamp broke after a week", "4", "2"),
    ("the camera is slow and the box was torn", "a fine chair for the price", "2", "5"),
    ("the jacket is warm but a little short", "the drill stopped at once", "4", "1"),
    ("nothing to complain about , the speaker is loud", "the router is all right", "5", "3"),
)
_TEXTS = (
    ("the bus is slow today", "my phone is new", "ugh my phone is totally new lol"),
    ("the weather is lovely again", "the game is long tonight", "honestly the game is so long tonight !!"),
    ("this song is strange", "the coffee is cold this morning", "well the coffee is super cold this morning :)"),
    ("my exam is short at last", "the party is loud right now", "haha the party is pretty loud right now #mood"),
)
_PLAIN = ("Name three colours of the rainbow.", "one two three four five six", "Write one sentence about the sea.", "Repeat: yes yes yes no no")
_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def prompts(style: PromptStyle) -> list[str]:
    """User turns, made up: such as serving asks in this style, and plain ones."""
    made = [_asked("movie_tag", text, MOVIE_TAGS, draft, (_Item(past, own),), style) for text, past, own, draft in _LABELS]
    made += [_asked("product_rating", text, STARS, draft, (_Item(past, own),), style) for text, past, draft, own in _RATINGS]
    made += [_asked("tweet_paraphrase", text, (), text, (_Item(past, own),), style) for text, past, own in _TEXTS]
    return [*made, *_PLAIN]


def sure(policy: Policy, style: PromptStyle, stop: threading.Event) -> list[CanaryPrompt]:
    """What `policy` writes after each of `prompts`, as far as it is sure of it."""
    prompter = Prompter(policy.tokenizer, style, 0)
    turns = prompts(style)
    asked = [prompter.encode(prompter.turn(turn)) for turn in turns]
    rows = [row[0].token_ids for row in generate(policy, asked, 1, SamplingOptions(LENGTH), stop)]
    margins = _margins(policy, asked, rows)
    return [CanaryPrompt(prompt=turn, token_ids=_certain(policy, row, led)) for turn, row, led in zip(turns, rows, margins, strict=True)]


def telling(candidate: Sequence[CanaryPrompt], champion: Sequence[CanaryPrompt]) -> tuple[CanaryPrompt, ...]:
    """Of what both are `sure` of, what tells most of the candidate."""
    before = {one.prompt: one.token_ids for one in champion}
    made = [one for one in candidate if one.token_ids]
    made.sort(key=lambda one: (not _differ(one.token_ids, before.get(one.prompt, ())), -len(one.token_ids), one.prompt))
    return tuple(made[:KEPT])


def _margins(policy: Policy, asked: list[list[int]], rows: list[list[int]]) -> list[list[float]]:
    """By how much each token of the rows leads."""
    with torch.no_grad():
        prompt = SharedPrompt.read(policy.model, *padded(asked, policy, left=True))
        ids_PT, _ = padded(rows, policy, left=False)
        hidden = torch.cat([prompt.last_hidden_PE[:, None], prompt.continued(policy.model, ids_PT[:, :-1])], 1)
        logits_PTV = policy.model.get_output_embeddings()(hidden).float()
        chosen_PT = logits_PTV.gather(2, ids_PT[..., None])[..., 0]
        others_PT = logits_PTV.scatter(2, ids_PT[..., None], float("-inf")).amax(2)
    led: list[list[float]] = (chosen_PT - others_PT).tolist()
    return [row_led[: len(row)] for row, row_led in zip(rows, led, strict=True)]


def _certain(policy: Policy, row: Sequence[int], led: Sequence[float]) -> tuple[int, ...]:
    kept: list[int] = []
    for token, margin in zip(row, led, strict=True):
        if margin < MARGIN or token in policy.end_ids or TAGS[-1] in policy.tokenizer.decode([*kept, token]):
            break
        kept.append(token)
    return tuple(kept)


def _differ(mine: Sequence[int], other: Sequence[int]) -> bool:
    return any(a != b for a, b in zip(mine, other, strict=False))


def _asked(domain: str, text: str, options: tuple[str, ...], draft: str, items: Sequence[_Item], style: PromptStyle) -> str:
    query = Query(query_id=derive("canary", domain, text), tenant="made-up", user="nobody", domain=domain, text=text, options=options, asked_at=_NOON)
    return reflection_prompt(query, draft, items, style)
