"""Settings of the domains: `[domains.NAME]`, one section for each domain that needs more than its built-in entry, or than the kind of its options gives."""

from __future__ import annotations

from infra.settings.section import Section
from schemas.domain_entries import DomainEntry


class DomainSettings(Section, DomainEntry):
    """How queries of one domain are asked and scored (docs/domains.md). None: as the built-in entry of this name, then as the kind of answer."""
