"""`python -m scripts.page_schema`: writes the JSON Schema of what the promotion page polls, against which the page's test checks it."""

import json
from importlib.resources import files
from pathlib import Path

from schemas.promotion_view import PageView
from trainer import promotion

if __name__ == "__main__":
    schema = json.dumps(PageView.model_json_schema(mode="serialization"), indent=1) + "\n"
    Path(str(files(promotion) / "page" / "view.schema.json")).write_text(schema)
