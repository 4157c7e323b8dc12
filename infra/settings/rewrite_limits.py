"""Limits of the reflection model's prompts and rewrites by domain, in serving, training and judging."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.domains import Domains


@dataclass(frozen=True)
class RewriteLimits:
    """In tokens of the reflection model.

    A rewrite has `reflection.max_new_tokens`: an answer of `base.max_new_tokens`, and room for its reasoning and tags. A domain with `max_new_tokens` of its
    own has the same room, and its own answer.
    """

    max_model_len: int  # of prompt and rewrite together
    max_new_tokens: int  # `reflection.max_new_tokens`
    answer_tokens: int  # `base.max_new_tokens`
    domains: Domains

    @property
    def room(self) -> int:
        """For the reasoning and the tags, end token included. The settings refuse less than 1 if a domain has `max_new_tokens`."""
        return self.max_new_tokens - self.answer_tokens

    def rewrite(self, domain: str) -> int:
        """Maximum number of tokens of a rewrite, with its end token; at least 1."""
        own = self.domains.own(domain).max_new_tokens
        return self.max_new_tokens if own is None else max(1, self.room + own)

    def prompt(self, domain: str) -> int:
        """Maximum number of tokens of a prompt, chat template included."""
        return self.max_model_len - self.rewrite(domain)
