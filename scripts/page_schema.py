"""`python -m scripts.page_schema`: writes the JSON Schema of what the promotion page polls, against which the page's test checks it."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from schemas.promotion_view import PageView
from trainer import promotion

PAGE_SCHEMA = Path(str(files(promotion))) / "page" / "view.schema.json"


def page_schema() -> str:
    return json.dumps(_without_texts(PageView.model_json_schema(mode="serialization")), indent=1) + "\n"


def _without_texts(schema: Any) -> Any:
    """Without titles and docstrings, so that rewording one does not change the schema."""
    if isinstance(schema, list):
        return [_without_texts(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _without_texts(value) for name, value in schema.items() if not (name in ("title", "description") and isinstance(value, str))}


if __name__ == "__main__":
    PAGE_SCHEMA.write_text(page_schema())
