from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from schemas.ids import Identifier
from traffic.datasets.users import user_id


def test_an_id_that_is_fit_stays_as_it_is() -> None:
    assert user_id("Ryabko, Boris") == "Ryabko, Boris"


def test_unfit_ids_stay_apart() -> None:
    assert user_id("a/b").startswith("a_b~")
    assert len({user_id("a/b"), user_id("a\tb"), user_id("a_b"), user_id(" a b")}) == 4
    assert user_id("x" * 200) != user_id("x" * 201)


@given(st.text(min_size=1).filter(str.strip))
def test_every_id_becomes_an_identifier_and_always_the_same_one(raw: str) -> None:
    assert TypeAdapter(Identifier).validate_python(user_id(raw)) == user_id(raw)
