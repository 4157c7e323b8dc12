"""A loaded tokenizer with its chat template: one user turn or a chat as token ids, in serving and in training, and the control marks of the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from infra.errors import RetouchError
from schemas.control_marks import ControlMarks
from schemas.rewriting import TAGS

#: How chat templates write the marks of roles and turns: `<|user|>`, `[INST]`, `<<SYS>>`. They count as control marks even if they are plain text for the
#: tokenizer, as in Llama 2, because the model was trained to read them as control tokens.
_TEMPLATE_MARK = re.compile(r"<{1,2}[^<>\s]{1,64}>{1,2}|\[/?[A-Z][A-Z_]{0,62}\]")
#: The form of a control token that a tokenizer may declare as a plain added token, as Qwen's `<|fim_prefix|>`.
_BARRED = re.compile(r"<[|｜][^<>\s]+[|｜]>")
#: Characters that few vocabularies have: their token ids are those of unknown characters.
_RARE = "\ue000 ꙮ \U0001faa9"


class ChatTurn(NamedTuple):
    role: str  # `system`, `user` or `assistant`
    content: str


class ChatRefused(RetouchError):
    """The chat template takes no chat of these roles, or a text of a turn would reach the model as control tokens. The text quotes no turn."""


class ChatTokenizer:
    """Thread-safe, because it only reads."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, checkpoint: Path) -> Self:
        """From files only, without running code of the checkpoint."""
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False))

    def turn(self, content: str) -> str:
        """One user turn inside the chat template, up to where the answer starts."""
        return self._rendered([ChatTurn("user", content)])

    def ids(self, text: str) -> list[int]:
        """Token ids. The chat template contains all special tokens that the model needs, so the tokenizer adds none."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def encode(self, content: str) -> list[int]:
        """Token ids of one user turn."""
        return self.ids(self.turn(content))

    def encode_chat(self, turns: Sequence[ChatTurn]) -> list[int]:
        """Token ids of a chat, up to where the next answer starts. Texts are neutralised. Raises ChatRefused."""
        from jinja2 import TemplateError

        roles = [turn.role for turn in turns]
        try:
            ids = self.ids(self._rendered([turn._replace(content=self.marks.neutralized(turn.content)) for turn in turns]))
            of_template = self._control_ids_of_template if roles == ["user"] else self._control_ids_of_roles(roles)
        except TemplateError:
            raise ChatRefused(f"the model's chat template takes no chat of the turns {', '.join(roles)}") from None
        if self._control_ids_of(ids) != of_template:
            raise ChatRefused("the text of a turn reaches the model as control tokens")
        return ids

    def _rendered(self, turns: Sequence[ChatTurn]) -> str:
        text: str = self.tokenizer.apply_chat_template([turn._asdict() for turn in turns], tokenize=False, add_generation_prompt=True)
        return text

    @cached_property
    def marks(self) -> ControlMarks:
        """Every special token, added tokens that look like control tokens, and the marks in the chat template."""
        added = self.tokenizer.added_tokens_decoder.values()
        special = [token for token in added if token.special or _BARRED.fullmatch(token.content)]
        texts = {*map(str, self.tokenizer.all_special_tokens), *(token.content for token in special), *_template_marks(self.tokenizer.chat_template)}
        normalizer = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "normalizer", None)
        return ControlMarks(frozenset(texts) - {*TAGS, ""}, normalized=normalizer is not None and any(token.normalized for token in special))

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """The ids of the marks, without those of the tags and of unknown characters."""
        marks = {token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.content in self.marks.marks}
        return frozenset({*marks, *self.tokenizer.all_special_ids}) - set(self.ids("".join(TAGS))) - set(self.ids(_RARE))

    def holds_control_tokens(self, turn_ids: Sequence[int]) -> bool:
        """Whether an encoded user turn has other control tokens than those of the chat template: its content was not neutralised."""
        return self._control_ids_of(turn_ids) != self._control_ids_of_template

    @cached_property
    def _control_ids_of_template(self) -> list[int]:
        return self._control_ids_of_roles(["user"])

    def _control_ids_of_roles(self, roles: Sequence[str]) -> list[int]:
        return self._control_ids_of(self.ids(self._rendered([ChatTurn(role, "x") for role in roles])))

    def _control_ids_of(self, ids: Sequence[int]) -> list[int]:
        return [token_id for token_id in ids if token_id in self.control_ids]


def _template_marks(template: object) -> set[str]:
    """`template` is one chat template, or several by name."""
    texts = template.values() if isinstance(template, dict) else [template]
    return {mark for text in texts if isinstance(text, str) for mark in _TEMPLATE_MARK.findall(text)}
