"""Limits of the reflection model for tests."""

from __future__ import annotations

from infra.settings.rewrite_limits import RewriteLimits
from schemas.domains import BUILT_IN_DOMAINS, Domains


def limits(prompt: int, rewrite: int = 512, domains: Domains = BUILT_IN_DOMAINS) -> RewriteLimits:
    """Of domains without `max_new_tokens`: so many tokens of a prompt, and of a rewrite. Half of a rewrite is for the answer."""
    return RewriteLimits(prompt + rewrite, rewrite, rewrite // 2, domains)
