"""The converters of the small real sets, on made-up rows; and on the sets themselves where `REAL_DATA_SETS` names their folder."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from schemas.tasks import MOVIE_TAGS, Task
from tests.support.small_datasets import interactions, paper, questions, reading, visible, write_jsonl
from traffic.datasets.authored_texts import ArxivAuthors, HuffPostAuthors
from traffic.datasets.catalog import open_dataset
from traffic.datasets.files import BadData
from traffic.datasets.movielens import MovieLens
from traffic.datasets.stackexchange import StackExchangePosts, plain
from traffic.datasets.steps import ReadCounts

#: The folder that holds the sets, each in one of its own name.
SETS = Path(os.environ.get("REAL_DATA_SETS", "no-data-sets"))


def test_papers_of_one_day_do_not_see_one_another(tmp_path: Path) -> None:
    days = ["2007-01-15", "2007-01-16", "2007-01-16", "2007-01-16", "2007-01-17"]
    write_jsonl(tmp_path / "papers.jsonl", [paper("Ryabko, Boris", number, day) for number, day in enumerate(days)])
    dataset = reading(ArxivAuthors, tmp_path / "papers.jsonl")
    all_questions = questions(dataset.steps("t"))
    assert [question.truth for question in all_questions] == ["Title 2", "Title 3", "Title 4"]
    assert [visible(dataset, question) for question in all_questions] == [["Title 0"], ["Title 0"], ["Title 0", "Title 1", "Title 2", "Title 3"]]


def test_a_headline_answers_its_description(tmp_path: Path) -> None:
    rows = [
        {"category": "WORLD", "authors": "Lee", "headline": f"Head {n}", "short_description": f"Text {n}", "link": f"l/{n}", "date": f"2018-05-0{n}"}
        for n in (1, 2)
    ]
    steps = list(reading(HuffPostAuthors, write_jsonl(tmp_path / "articles.jsonl", rows)).steps("t"))
    assert [(step.content, step.response) for step in interactions(steps)] == [("Text 1", "Head 1")]
    assert [(step.query.domain, step.query.text, step.truth) for step in questions(steps)] == [("news_headline", "Text 2", "Head 2")]


def _movielens(folder: Path) -> MovieLens:
    (folder / "movies.csv").write_text('movieId,title,genres\n1,"Alien, The (1979)",Horror|Sci-Fi\n2,Up (2009),(no genres listed)\n')
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n7,1,Sci-Fi,100\n7,1,pretty,150\n7,2,romance,200\n")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n7,1,0.5,100\n7,2,3.5,100\n8,2,5.0,300\n")
    dataset = open_dataset(folder)
    assert isinstance(dataset, MovieLens)
    return dataset


def test_only_the_labels_of_lamp_2_count_as_tags_and_half_stars_go_up(tmp_path: Path) -> None:
    dataset = _movielens(tmp_path)
    steps = list(dataset.steps("t"))
    assert [(step.user, step.domain, step.content, step.response) for step in interactions(steps)] == [
        ("7", "movie_rating", "Alien, The (1979). Horror, Sci-Fi", "1"),
        ("7", "movie_tag", "Alien, The (1979). Horror, Sci-Fi", "sci-fi"),
        ("8", "movie_rating", "Up (2009). (no genres listed)", "5"),
    ]
    rating, tag = questions(steps)
    assert (rating.truth, rating.query.task, tag.truth, tag.query.options) == ("4", Task.RATING, "romance", MOVIE_TAGS)
    assert visible(dataset, rating) == [], "what happened in the same second is not before it"


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("ratings.csv", "7,1,six,100", r"ratings\.csv:5: field 'rating' is not a rating of 0\.5 to 5 in halves"),
        ("ratings.csv", "7,1,6,100", r"ratings\.csv:5: field 'rating'"),
        ("ratings.csv", "7,1,3.7,100", r"ratings\.csv:5: field 'rating'"),
        ("ratings.csv", "7,99,3,100", r"ratings\.csv:5: field 'movieId' is not a film of movies\.csv"),
        ("tags.csv", "7,1,romance,soon", r"tags\.csv:5: field 'timestamp' is not seconds since 1970"),
        ("tags.csv", '7,1,"romance,100', r"tags\.csv:5: not CSV: unexpected end of data"),
        ("tags.csv", '7,1,"romance"x,100', r"tags\.csv:5: not CSV: ',' expected after"),
        ("tags.csv", "7,1,rom\0ance,100", r"tags\.csv:5: a NUL byte"),
        ("tags.csv", "7,1,romance,100,5", r"tags\.csv:5: 5 fields; expected 4, as in the header"),
        ("tags.csv", f"7,1,{'x' * 200_000},100", r"tags\.csv:5: not CSV: field larger than field limit"),
        ("tags.csv", "7,1,romance\r8,1,romance,100", r"tags\.csv:5: not CSV: new-line character"),
        ("tags.csv", "userId,movieId,tag,timestamp", r"tags\.csv:5: the header line again"),
        ("tags.csv", "7,1,romance,1e3", r"tags\.csv:5: field 'timestamp' is not seconds"),
        ("tags.csv", "7,1,pretty,9999999999999", r"tags\.csv:5: field 'timestamp' is not seconds"),
        ("tags.csv", f"7,1,romance,{'9' * 5000}", r"tags\.csv:5: field 'timestamp' is not seconds"),
        ("ratings.csv", "7,1,nan,100", r"ratings\.csv:5: field 'rating'"),
        ("movies.csv", "1,Alien again,Horror", r"movies\.csv:4: the movieId occurs twice; .*movies\.csv:2"),
        ("tags.csv", "7,1", r"tags\.csv:5: 2 fields; expected 4"),
    ],
)
def test_a_bad_row_of_movielens_is_named(tmp_path: Path, file: str, line: str, message: str) -> None:
    dataset = _movielens(tmp_path)
    with (tmp_path / file).open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(BadData, match=message):
        list(dataset.steps("t"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("userId,movieId,tag\n", r"tags\.csv:1: the header has no timestamp; expected userId, movieId, tag, timestamp"),
        ("userId;movieId;tag;timestamp\n", r"tags\.csv:1: the header has no userId"),
        ("userId,movieId,tag,timestamp,tag\n", r"tags\.csv:1: the header has a column twice"),
        ("", r"tags\.csv: empty; expected a header line"),
    ],
)
def test_a_bad_header_is_named(tmp_path: Path, text: str, message: str) -> None:
    dataset = _movielens(tmp_path)
    (tmp_path / "tags.csv").write_text(text)
    with pytest.raises(BadData, match=message):
        list(dataset.steps("t"))


def test_the_files_of_movielens_that_are_not_needed_are_named_and_tags_are_counted(tmp_path: Path) -> None:
    _movielens(tmp_path)
    (tmp_path / "links.csv").write_text("movieId,imdbId,tmdbId\n")
    dataset, counts = open_dataset(tmp_path), ReadCounts()
    assert (len(list(dataset.steps("t", counts))), dataset.not_read) == (5, ("links.csv",))
    assert counts.skipped == {"tag that is not one of LaMP-2's labels": 1}
    (tmp_path / "more.csv").touch()
    with pytest.raises(BadData, match=r"more\.csv: not a file of MovieLens"):
        open_dataset(tmp_path)


def _post(number: int, **fields: str) -> dict[str, str]:
    at = f"2014-01-21T20:26:0{number}.383"
    base = {"Id": str(number), "PostTypeId": "1", "CreationDate": at, "OwnerUserId": "7", "Title": f"Why {number}?", "Tags": "<hops><ipa>"}
    return base | {"Body": f"<p>I drank &amp; asked {number}.</p>"} | fields


def test_a_post_asks_for_its_title_and_its_first_tag(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "posts.jsonl", [_post(1), _post(2, Tags="<taste>"), {**_post(3, PostTypeId="2"), "Title": None}])
    dataset = open_dataset(tmp_path)
    assert dataset == reading(StackExchangePosts, file)
    steps = list(dataset.steps("t"))
    assert [(step.domain, step.content, step.response) for step in interactions(steps)] == [
        ("post_tag", "Why 1?\nI drank & asked 1.", "hops"),
        ("post_title", "I drank & asked 1.", "Why 1?"),
    ]
    assert [(step.query.domain, step.query.options, step.truth) for step in questions(steps)] == [
        ("post_tag", ("hops", "taste"), "taste"),
        ("post_title", (), "Why 2?"),
    ]


@pytest.mark.parametrize("tags", ["<hops><ipa>", "|hops|ipa|", "&lt;hops&gt;&lt;ipa&gt;", "|hops|"])
def test_both_forms_of_tags_are_read_and_entities_are_decoded(tmp_path: Path, tags: str) -> None:
    post = _post(1, Tags=tags, Title="Is &quot;hops&quot; &gt; malt?")
    by_domain = {step.domain: step.response for step in interactions(reading(StackExchangePosts, write_jsonl(tmp_path / "posts.jsonl", [post])).steps("t"))}
    assert by_domain == {"post_tag": "hops", "post_title": 'Is "hops" > malt?'}


def test_posts_that_cannot_be_asked_about_are_counted(tmp_path: Path) -> None:
    posts = [_post(1), _post(2, PostTypeId="2"), _post(3), _post(4, PostTypeId="5")]
    del posts[2]["OwnerUserId"]
    counts = ReadCounts()
    assert len(list(reading(StackExchangePosts, write_jsonl(tmp_path / "posts.jsonl", posts)).steps("t", counts))) == 2
    assert counts.skipped == {"answer, or other post that is not a question": 2, "post without a user": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Tags": "hops"}, r":1: field 'Tags' has no tag"),
        ({"Tags": "<&#8203;>"}, r":1: field 'Tags' has no tag"),
        ({"Title": " "}, r":1: field 'Title' is not a title with visible text"),
        ({"Title": "&nbsp;&#8203;"}, r":1: field 'Title' is not a title with visible text"),
    ],
)
def test_a_bad_post_is_named(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    with pytest.raises(BadData, match=message):
        list(reading(StackExchangePosts, write_jsonl(tmp_path / "posts.jsonl", [_post(1, **fields)])).steps("t"))


def test_a_text_longer_than_a_message_is_cut_and_counted(tmp_path: Path) -> None:
    counts = ReadCounts()
    rows = [paper("Ann", 1, "2007-01-01") | {"abstract": "x" * 32_769}]
    (step,) = interactions(reading(ArxivAuthors, write_jsonl(tmp_path / "papers.jsonl", rows)).steps("t", counts))
    assert (len(step.content), counts.shortened) == (32_768, 1)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One <b>two</b>&nbsp;&lt;3</p>\n<ul><li>a</li><li>b</li></ul><pre>x < y</pre>", "One two <3\na\nb\nx < y"),
        ("a<BR/>b<br />c<hr>d", "a\nb\nc\nd"),
        ('<a title="x > y">link</a>', "link"),
        ("<!-- language: <b>c</b> -->code<!-- to the end", "code"),
        ("a < b > c &amp;lt; <3 <", "a < b > c &lt; <3 <"),
        ("<![foo[x]]>y<?z?>", "y"),
        ("&#0000065;&#" + "0" * 5000 + "66;&#67", "ABC"),
        ("a&#" + "9" * 5000 + ";b&#12345678", "a\ufffdb\ufffd"),
    ],
)
def test_html_becomes_its_text(html: str, text: str) -> None:
    assert plain(html) == text


@pytest.mark.timeout(60)  # these took hours in quadratic time, and take milliseconds
@pytest.mark.parametrize("part", ["<!--", "<a ", "<a href='", '<a b="c', "<![CDATA[", "<", "</", "&", "<p>", "'"])
def test_a_body_of_tags_that_do_not_end_is_read_at_once(part: str) -> None:
    assert len(plain(part * 300_000)) <= len(part) * 300_000


@pytest.mark.parametrize(
    ("name", "users", "history", "asked"),
    [
        ("arxiv_authors", 40, {"scholarly_title": 599}, {"scholarly_title": 120}),
        ("huffpost_authors", 35, {"news_headline": 2537}, {"news_headline": 105}),
        ("movielens_small", 96, {"movie_rating": 17054, "movie_tag": 160}, {"movie_rating": 282, "movie_tag": 39}),
        ("beer_stackexchange", 325, {"post_title": 482, "post_tag": 482}, {"post_title": 177, "post_tag": 177}),
    ],
)
def test_a_real_set_is_read_whole(name: str, users: int, history: dict[str, int], asked: dict[str, int]) -> None:
    folder = SETS / name
    if not folder.is_dir():
        pytest.skip(f"needs {name} in the folder that REAL_DATA_SETS names")
    steps = list(open_dataset(folder).steps("t"))
    all_interactions, all_questions = interactions(steps), questions(steps)
    assert Counter(step.domain for step in all_interactions) == history
    assert Counter(step.query.domain for step in all_questions) == asked
    assert len({step.user for step in all_interactions}) == users
    assert len({step.interaction_id for step in all_interactions} | {step.query.query_id for step in all_questions}) == len(steps)
    assert all(step.feedback[0].occurred_at >= step.query.asked_at for step in all_questions)
