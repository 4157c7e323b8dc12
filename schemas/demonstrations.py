"""Prompts with demonstrations: past items of the user as earlier turns of a chat, then the query (HYDRA, `adapter/generate`).

Of each item, the user's turn is the whole task prompt and the assistant's turn is the response. The best item comes first.
In the compact style the items are a profile in one user's turn, as in RAG: the tiny models never saw a chat of several turns, and answer it with noise.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.control_marks import ControlMarks
from schemas.prompts import ChatTurn, Example, PromptForm, PromptStyle, base_prompt, rag_prompt, turns_of
from schemas.queries import Query


def demonstration_turns(query: Query, items: Sequence[Example], form: PromptForm, marks: ControlMarks) -> tuple[ChatTurn, ...]:
    """The items, best first, and the query in the last turn. The items are questions of the query's domain, with its options.

    Users' texts are neutralized by `marks`, so that they open no turn of their own.
    """
    *system, task = turns_of(query, base_prompt(query, form, marks), form, marks)
    if items and form.style is PromptStyle.COMPACT:
        return (ChatTurn("user", rag_prompt(query, items, form, marks)),)
    shown = [
        turn
        for item in items
        for turn in (
            ChatTurn("user", base_prompt(query.model_copy(update={"text": item.content}), form, marks)),
            ChatTurn("assistant", marks.neutralized(item.response)),
        )
    ]
    return (*system, *shown, task)
