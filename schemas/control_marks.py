"""Control marks: the strings that a tokenizer reads as control tokens, such as `<|im_start|>` or `[INST]`, and the tags of a rewrite.

A user's text that holds one could end its turn and open another one. `ControlMarks.neutralized` breaks marks up with blanks, so that they reach a model as
plain text. `infra.checkpoints.chat_tokenizer` makes the marks of a loaded tokenizer. `WELL_KNOWN_MARKS` stands for tokenizers that are not loaded.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from schemas.rewriting import TAGS

_words = str.split


class _Span(NamedTuple):
    """The positions of a mark's first and last character in a text."""

    first: int
    last: int


@dataclass(frozen=True)
class ControlMarks:
    """The marks of one tokenizer, and always the tags of a rewrite. Marks of blanks alone do not count: prompts consist of lines.

    `normalized`: the tokenizer normalises a text before it looks for marks. Then a mark is also found in other letter case, in another Unicode form
    (`＜ｓ＞`), and with accents or invisible characters inside.
    """

    marks: frozenset[str] = frozenset()
    normalized: bool = False

    def found_in(self, text: str) -> bool:
        return bool(self._spans(text))

    def neutralized(self, text: str) -> str:
        """`text` without marks: a blank follows a mark's first character and precedes its last one. A text without marks is returned unchanged.

        Marks may be nested or overlap. Takes linear time.
        """
        spans = self._spans(text)
        if spans:
            text = _with_blanks(text, spans)
            # Only marks of one character, and marks that contain blanks, can be left. They lose a character.
            while spans := self._spans(text):
                text = _without(text, {span.first for span in spans})
        return text

    @cached_property
    def _shapes(self) -> frozenset[str]:
        """The marks as they are searched."""
        return frozenset(shape for mark in (*self.marks, *TAGS) if (shape := self._shape(mark).strip()))

    @cached_property
    def _lengths(self) -> Mapping[str, Sequence[int]]:
        """The lengths of the marks that begin with these two characters, longest first. One character may also be a mark."""
        lengths: dict[str, set[int]] = defaultdict(lambda: {1})
        for shape in self._shapes:
            lengths[shape[:2]].add(len(shape))
        return {head: sorted(of_head, reverse=True) for head, of_head in lengths.items()}

    @cached_property
    def _first(self) -> re.Pattern[str]:
        return re.compile(f"[{''.join(re.escape(first) for first in sorted({shape[0] for shape in self._shapes}))}]")

    def _shape(self, text: str) -> str:
        return "".join(map(_plain_form, text)) if self.normalized else text

    def _spans(self, text: str) -> list[_Span]:
        """The longest mark at each position where one starts. A blank behind its first character also breaks the shorter ones that start there."""
        shape = self._shape(text)
        found = []
        for match in self._first.finditer(shape):
            start = match.start()
            candidates = (shape[start : start + length] for length in self._lengths.get(shape[start : start + 2], (1,)))
            mark = next((candidate for candidate in candidates if candidate in self._shapes), "")
            if mark:
                found.append(_Span(start, start + len(mark) - 1))
        if not (found and self.normalized):
            return found
        origins = [position for position, character in enumerate(text) for _ in _plain_form(character)]
        return [_Span(origins[span.first], origins[span.last]) for span in found]


@lru_cache(maxsize=1 << 16)
def _plain_form(character: str) -> str:
    """What is left of a character after any usual normaliser: compatibility form, no case, no accents, nothing invisible. `▁` is SentencePiece's blank."""
    decomposed = unicodedata.normalize("NFKD", character).casefold().replace("▁", " ")
    return "".join(part for part in decomposed if part.isspace() or unicodedata.category(part) not in _DROPPED)


#: Accents and other marks, control and format characters.
_DROPPED = frozenset({"Mn", "Mc", "Me", "Cc", "Cf"})


def _with_blanks(text: str, spans: Iterable[_Span]) -> str:
    before = sorted({position for first, last in spans if first < last for position in (first + 1, last)})
    return " ".join(text[start:end] for start, end in zip([0, *before], [*before, len(text)], strict=True))


def _without(text: str, positions: Iterable[int]) -> str:
    """A blank instead of the character at each of the positions."""
    characters = list(text)
    for position in positions:
        characters[position] = " "
    return "".join(characters)


#: Marks of common chat formats, for models whose tokenizer is not loaded: behind an endpoint, whose server may read marks in a message as control tokens.
#: `<|` begins every mark of the kind `<|…|>`: ChatML, Llama 3, Phi, Zephyr, Cohere, gpt-oss, GLM, and DeepSeek's with full-width bars.
WELL_KNOWN_MARKS = ControlMarks(
    frozenset(
        [
            "<|",
            *_words("<s> </s> <unk> <pad> <bos> <eos> [INST] [/INST] <<SYS>> <</SYS>>"),  # Llama 2, Mistral
            *_words("[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CONTENT]"),
            *_words("[IMG] [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [THINK] [/THINK]"),
            *_words("<start_of_turn> <end_of_turn> <start_of_image> <end_of_image>"),  # Gemma
            *_words("[gMASK] [sMASK] <sop> <eop>"),  # GLM
            *_words("<tool_call> </tool_call> <tool_response> </tool_response>"),  # Qwen
        ]
    ),
    normalized=True,
)
