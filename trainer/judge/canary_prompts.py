# axes are capital letters, as in trainer.learn.rollout
"""Canary prompts: invented prompts with a version's greedy tokens, by which a worker checks that it loaded these weights (`schemas.promotion`).

Another engine sums in another order, perhaps in bfloat16. So the tokens end before the first whose logit leads by less than `MARGIN`. They also end before an
end token and before the answer is complete, where a server would stop. The most distinctive prompts are kept: first those after which the version
and the champion write different tokens, which distinguishes new weights from old; then the longest.

Axes: P prompts, T tokens, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import torch

from infra.checkpoints.chat_tokenizer import ChatTokenizer
from schemas.control_marks import ControlMarks
from schemas.ids import derive
from schemas.promotion import CanaryPrompt
from schemas.prompts import PromptForm, reflection_prompt
from schemas.queries import Query
from schemas.rewriting import TAGS
from schemas.tasks import MOVIE_TAGS, STARS
from trainer.learn.policy import Policy
from trainer.learn.rollout import SamplingOptions, generate, padded
from trainer.learn.shared_prompt import SharedPrompt

#: Minimum lead of the likeliest token, in logits. bfloat16 moved single logits of the shipped reflector by at most 0.28 (2026-11-21).
MARGIN = 1.0
#: Maximum number of tokens of a prompt; minimum of the longest one, or the version is hard to distinguish from others.
MAX_TOKENS, MIN_TOKENS = 16, 4
MAX_PROMPTS = 6


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


def user_turns(form: PromptForm, marks: ControlMarks) -> list[str]:
    """Invented user turns: some as serving writes them in this form, and some plain ones."""
    turns = [_user_turn("movie_tag", text, MOVIE_TAGS, draft, (_Item(past, own),), form, marks) for text, past, own, draft in _LABELS]
    turns += [_user_turn("product_rating", text, STARS, draft, (_Item(past, own),), form, marks) for text, past, draft, own in _RATINGS]
    turns += [_user_turn("tweet_paraphrase", text, (), text, (_Item(past, own),), form, marks) for text, past, own in _TEXTS]
    return [*turns, *_PLAIN]


def confident_completions(policy: Policy, form: PromptForm, stop: threading.Event) -> list[CanaryPrompt]:
    """The tokens that `policy` generates with enough margin, for each of `user_turns`."""
    chat = ChatTokenizer(policy.tokenizer)
    turns = user_turns(form, chat.marks)
    encoded = [chat.encode(turn) for turn in turns]
    rows = [row[0].token_ids for row in generate(policy, encoded, [MAX_TOKENS] * len(encoded), 1, SamplingOptions(), stop)]
    margins = _margins(policy, encoded, rows)
    return [CanaryPrompt(prompt=turn, token_ids=_confident(policy, row, leads)) for turn, row, leads in zip(turns, rows, margins, strict=True)]


def most_distinctive(candidate: Sequence[CanaryPrompt], champion: Sequence[CanaryPrompt]) -> tuple[CanaryPrompt, ...]:
    """The candidate's prompts that distinguish it best from the champion."""
    by_champion = {prompt.prompt: prompt.token_ids for prompt in champion}
    prompts = [prompt for prompt in candidate if prompt.token_ids]
    prompts.sort(key=lambda prompt: (not _differ(prompt.token_ids, by_champion.get(prompt.prompt, ())), -len(prompt.token_ids), prompt.prompt))
    return tuple(prompts[:MAX_PROMPTS])


def _margins(policy: Policy, encoded: list[list[int]], rows: list[list[int]]) -> list[list[float]]:
    """The lead of each token of the rows, in logits."""
    with torch.no_grad():
        prompt = SharedPrompt.read(policy.model, *padded(encoded, policy, left=True))
        ids_PT, _ = padded(rows, policy, left=False)
        hidden = torch.cat([prompt.last_hidden_PE[:, None], prompt.continued(policy.model, ids_PT[:, :-1])], 1)
        logits_PTV = policy.model.get_output_embeddings()(hidden).float()
        chosen_PT = logits_PTV.gather(2, ids_PT[..., None])[..., 0]
        others_PT = logits_PTV.scatter(2, ids_PT[..., None], float("-inf")).amax(2)
    leads: list[list[float]] = (chosen_PT - others_PT).tolist()
    return [of_row[: len(row)] for row, of_row in zip(rows, leads, strict=True)]


def _confident(policy: Policy, row: Sequence[int], leads: Sequence[float]) -> tuple[int, ...]:
    kept: list[int] = []
    for token, margin in zip(row, leads, strict=True):
        if margin < MARGIN or token in policy.end_ids or TAGS[-1] in policy.tokenizer.decode([*kept, token]):
            break
        kept.append(token)
    return tuple(kept)


def _differ(left: Sequence[int], right: Sequence[int]) -> bool:
    return any(a != b for a, b in zip(left, right, strict=False))


def _user_turn(domain: str, text: str, options: tuple[str, ...], draft: str, items: Sequence[_Item], form: PromptForm, marks: ControlMarks) -> str:
    query = Query(query_id=derive("canary", domain, text), tenant="made-up", user="nobody", domain=domain, text=text, options=options, asked_at=_NOON)
    return reflection_prompt(query, draft, items, form, marks)
