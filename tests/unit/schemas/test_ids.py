"""Derived ids and the split of users."""

from __future__ import annotations

from uuid import UUID

from schemas.ids import bucket, derive, is_held_out, record_key


def test_the_same_cause_always_has_the_same_id() -> None:
    assert derive("interaction", "acme", "ada", 17) == UUID("16beaf65-9ee7-5399-a61d-5411b36ff76b")


def test_causes_are_separated() -> None:
    ids = {derive("x", "ab", "c"), derive("x", "a", "bc"), derive("xa", "b", "c"), derive("x", "abc")}
    assert len(ids) == 4


def test_users_spread_evenly_over_buckets() -> None:
    positions = [bucket("acme", f"user-{number}", "holdout") for number in range(10_000)]
    tenths = [sum(int(position * 10) == tenth for position in positions) for tenth in range(10)]
    assert all(0 <= position < 1 for position in positions)
    assert all(850 < count < 1150 for count in tenths)  # five standard deviations


def test_another_salt_makes_another_split() -> None:
    users = [f"user-{number}" for number in range(1000)]
    both = sum(bucket("acme", user, "a") < 0.5 and bucket("acme", user, "b") < 0.5 for user in users)
    assert 180 < both < 320


def test_the_share_of_held_out_users_is_as_set() -> None:
    held_out = sum(is_held_out("acme", f"user-{number}", 0.3) for number in range(10_000))
    assert 2750 < held_out < 3250
    assert not is_held_out("acme", "ada", 0.0) and is_held_out("acme", "ada", 1.0)


def test_a_key_names_tenant_and_user() -> None:
    assert record_key("acme", "ädä") == "acme/ädä".encode()
