"""Stack Exchange posts by user: the title and the first tag of a question are the user's responses to its body.

Answers have neither and are skipped, like posts without a user. A post has one to five tags; the first one counts. The options are all first tags of the
files. Body, title and tags are HTML: entities are decoded.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from schemas.sameness import is_blank
from traffic.datasets.authored_texts import AuthoredTexts
from traffic.datasets.rows import DataRow
from traffic.datasets.steps import ReadCounts
from traffic.datasets.timelines import Entry

QUESTION = "1"
#: Maximum options of a query. If a site has more first tags, `post_tag` leaves out the rarer ones.
MAX_OPTIONS = 256

#: `<hops><ipa>` in older dumps, `|hops|ipa|` in newer ones.
_FIRST_TAG = re.compile(r"<([^<>|]+)>|\|([^<>|]+)\|")

# `html.unescape` raises ValueError for a reference of more than 4,300 digits. No character has more than seven.
_LEADING_ZEROS, _NO_CHARACTER = re.compile(r"&#0+(?=[0-9])"), re.compile(r"&#[0-9]{8,};?")

_BLOCKS = frozenset({"p", "br", "li", "ul", "ol", "pre", "blockquote", "div", "hr", "h1", "h2", "h3", "h4", "tr"})
# `html.parser` takes quadratic time for tags that do not end: 10 s for 24,000 characters (Python 3.11.7). These take linear time, because no part of a tag
# goes beyond the next `<`, and a comment that does not end goes to the end of the text, as in browsers.
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TAG = re.compile(r"""<(?:/?(?P<name>[a-zA-Z][a-zA-Z0-9]*+)|[!?])(?:[^<>"']|"[^"<]*"|'[^'<]*')*+>""")


class StackExchangePosts(AuthoredTexts):
    """Each user's latest `last` titles (`post_title`) and first tags (`post_tag`) are questions."""

    LOOKS_FOR = "*.jsonl of posts with Id, PostTypeId, CreationDate and Body"
    FIELDS = ("Id", "PostTypeId", "CreationDate", "Body")
    title = "Stack Exchange posts by user"

    def entries(self, counts: ReadCounts) -> Iterator[Entry]:
        tags = []
        for row in self.rows():
            if row.text("PostTypeId") != QUESTION:
                counts.skipped["answer, or other post that is not a question"] += 1
                continue
            if row.fields.get("OwnerUserId") is None:
                counts.skipped["post without a user"] += 1
                continue
            user, post, at = row.user("OwnerUserId"), row.text("Id", filled=True), row.moment("CreationDate")
            title, body = row.read("Title", _title, "a title with visible text"), plain(row.text("Body"))
            yield Entry(row.place, user, "post_title", f"stackexchange/{post}/title", body, title, at)
            tags.append(Entry(row.place, user, "post_tag", f"stackexchange/{post}/tag", f"{title}\n{body}", _first_tag(row), at))
        frequent = Counter(entry.response for entry in tags).most_common(MAX_OPTIONS)
        options = tuple(sorted(tag for tag, _ in frequent))
        for entry in tags:
            if entry.response in options:
                yield replace(entry, options=options)
            else:
                counts.skipped[f"first tag that is not one of the {MAX_OPTIONS} most frequent (the title is read)"] += 1


def _first_tag(row: DataRow) -> str:
    found = _FIRST_TAG.match(_unescaped(row.text("Tags")))
    tag = (found[1] or found[2]) if found else ""
    if is_blank(tag):
        raise row.bad("field 'Tags' has no tag; expected <tag><tag> or |tag|tag|")
    return tag


def _title(markup: str) -> str:
    """Raises ValueError for a title without visible text."""
    title = _unescaped(markup)
    if is_blank(title):
        raise ValueError
    return title


def plain(markup: str) -> str:
    """Plain text of HTML: entities resolved, tags and comments removed, one line per block, blanks collapsed."""
    text = _unescaped(_TAG.sub(lambda tag: "\n" if tag["name"] and tag["name"].lower() in _BLOCKS else "", _COMMENT.sub("", markup)))
    return "\n".join(single for line in text.splitlines() if (single := " ".join(line.split())))


def _unescaped(markup: str) -> str:
    return html.unescape(_NO_CHARACTER.sub("\ufffd", _LEADING_ZEROS.sub("&#", markup)))
