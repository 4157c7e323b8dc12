"""Chat prompts with demonstrations: past items of the user as earlier turns of a chat, then the query (HYDRA, `adapter/generate`).

Of each item, the user's turn is the whole task prompt and the assistant's turn is the response. The best item comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.control_marks import ControlMarks
from schemas.prompts import ChatTurn, Example, PromptStyle, base_prompt
from schemas.queries import Query


def demonstration_turns(query: Query, items: Sequence[Example], style: PromptStyle, marks: ControlMarks) -> tuple[ChatTurn, ...]:
    """Two turns for each of `items` in order, and the query as the last turn. The items are questions of the query's domain, with its options.

    Users' texts are neutralized by `marks`, so that they open no turn of their own.
    """
    shown = [
        turn
        for item in items
        for turn in (
            ChatTurn("user", base_prompt(query.model_copy(update={"text": item.content}), style, marks)),
            ChatTurn("assistant", marks.neutralized(item.response)),
        )
    ]
    return (*shown, ChatTurn("user", base_prompt(query, style, marks)))
