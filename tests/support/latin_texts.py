"""Generated texts in Latin, Greek and Cyrillic letters, with signs and emoji, and the rule that split texts before other scripts counted."""

from __future__ import annotations

import re

from hypothesis import strategies as st

BEFORE = re.compile(r"[\w#'-]+|[^\w\s]+")
LATIN = [
    *"abzAZ019éßñøŁőạệαωάЯёй \n\t\u00a0\u2009_#'-.,:;!?()[]{}/\\@&%$€£+*=<>|~^`\"’‘“”…–—•°²½™©®№→∞≠🎉❤",
    *(
        "isn't",
        "e-mail",
        "#fun",
        ":-)",
        "¯\\_",
        "don’t",
        "👍🏽",
        "👨\u200d👩\u200d👧",
        "🏳\ufe0f\u200d🌈",
        "🇩🇪",
        "❤\ufe0f",
        "☺\ufe0e",
        "1\ufe0f\u20e3",
        "#\ufe0f\u20e3",
    ),
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
]
latin_texts = st.lists(st.sampled_from(LATIN), max_size=20).map("".join)
