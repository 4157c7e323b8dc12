"""Stack Exchange posts by user: the title and the first tag of a question are the user's responses to its body.

Answers have neither and are skipped. A post has one to five tags; the first one counts. The options are all first tags of the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser

from traffic.datasets.authored_texts import AuthoredTexts
from traffic.datasets.rows import DataRow, json_lines
from traffic.datasets.timelines import Entry

QUESTION, ANSWER = "1", "2"
#: Maximum options of a query. If a site has more first tags, `post_tag` leaves out the rarer ones.
MAX_OPTIONS = 256


class StackExchangePosts(AuthoredTexts):
    """Each user's latest `last` titles (`post_title`) and first tags (`post_tag`) are questions."""

    LOOKS_FOR = "a *.jsonl of posts with Id, PostTypeId, CreationDate, OwnerUserId and Body"
    FIELDS = ("Id", "PostTypeId", "CreationDate", "OwnerUserId", "Body")
    title = "Stack Exchange posts by user"

    def entries(self) -> Iterator[Entry]:
        counts = Counter(_first_tag(row) for row in self._questions())
        options = tuple(sorted(tag for tag, _ in counts.most_common(MAX_OPTIONS)))
        for row in self._questions():
            user, post, at = row.user("OwnerUserId"), row.text("Id", filled=True), row.moment("CreationDate")
            title, body, tag = row.text("Title", filled=True), plain(row.text("Body")), _first_tag(row)
            yield Entry(row, user, "post_title", f"stackexchange/{post}/title", body, title, at)
            if tag in options:
                yield Entry(row, user, "post_tag", f"stackexchange/{post}/tag", f"{title}\n{body}", tag, at, options)

    def _questions(self) -> Iterator[DataRow]:
        return (row for row in json_lines(self.file) if row.text("PostTypeId") == QUESTION)


def _first_tag(row: DataRow) -> str:
    found = re.match(r"<([^<>]+)>", row.text("Tags"))
    if not found:
        raise row.bad("field 'Tags' has no tag; expected <tag><tag>")
    return found[1]


def plain(html: str) -> str:
    """Plain text of HTML: entities resolved, tags removed, one line per block, blanks collapsed."""
    reader = _TextOnly()
    reader.feed(html)
    reader.close()
    lines = ("".join(reader.parts)).splitlines()
    return "\n".join(folded for line in lines if (folded := " ".join(line.split())))


class _TextOnly(HTMLParser):
    _BLOCKS = frozenset({"p", "br", "li", "ul", "ol", "pre", "blockquote", "div", "hr", "h1", "h2", "h3", "h4", "tr"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.handle_starttag(tag, [])

    def handle_data(self, data: str) -> None:
        self.parts.append(data)
