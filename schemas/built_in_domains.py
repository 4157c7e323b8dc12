"""The built-in domain entries: LaMP's tasks with RPO's prompts (table 8, appendix C; LaMP's item texts), and what holds for the domains without an entry.

They have no options, because each query of these domains names its own.

The prompts are part of training data and of figures that were published: a test compares them with stored ones (tests/samples/prompts).
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.domain_entries import DomainEntry
from schemas.scoring import METRIC
from schemas.tasks import Task

BUILT_IN: Mapping[str, DomainEntry] = {
    "movie_tag": DomainEntry(
        user_template=(
            "Which tag does this movie relate to among the following tags? Just answer with the tag name without further explanation. "
            "tags: [{options}] description: {text}"
        ),
        reasons_template="Which tag does this movie relate to among the following tags? tags: [{options}] description: {text}",
        item_template='The tag for the movie: "{content}" is {response}',
        summary_instruction=(
            'Look at the past movies that this user tagged, and determine the most popular tag. Answer in the following form: "most popular tag: <tag>".'
        ),
    ),
    "product_rating": DomainEntry(
        user_template=(
            "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further explanation. review: {text}"
        ),
        reasons_template="What is the score of the following review on a scale of 1 to 5? review: {text}",
        item_template='{response} is the score for "{content}"',
        summary_instruction=(
            "Based on this user's past reviews, what are the most common scores they give for positive and negative reviews? "
            'Answer in the following form: "most common positive score: <score>, most common negative score: <score>".'
        ),
    ),
    "scholarly_title": DomainEntry(
        user_template="Generate a title for the following abstract of a paper: {text}",
        item_template='"{response}" is the title for "{content}"',
        summary_instruction="Given this author's previous publications, describe a template for their titles. Write the template and nothing else.",
        compact_verb="title",
    ),
    "news_headline": DomainEntry(
        user_template="Generate a headline for the following article: {text}",
        item_template='"{response}" is the headline for "{content}"',
        summary_instruction="Given this author's previous articles, describe a template for their headlines. Write the template and nothing else.",
        compact_verb="title",
    ),
    "tweet_paraphrase": DomainEntry(
        user_template="Paraphrase the following tweet without any explanation before or after it: {text}",
        reasons_template="Paraphrase the following tweet: {text}",
        summary_instruction=(
            "Given this person's previous tweets, describe a template for their tweets: style, punctuation, capitalization, wording and tone. "
            "Write the template and nothing else."
        ),
    ),
}

#: For domains without an entry, and for what an entry leaves out.
BY_TASK: Mapping[Task, DomainEntry] = {
    Task.LABEL: DomainEntry(
        user_template=(
            "Which of the following options fits the text? Just answer with the option without further explanation. options: [{options}] text: {text}"
        ),
        reasons_template="Which of the following options fits the text? options: [{options}] text: {text}",
        item_template='The label for "{content}" is {response}',
        summary_instruction=(
            'Look at the past choices of this user, and determine the most popular label. Answer in the following form: "most popular label: <label>".'
        ),
        compact_verb="tag",
        metric=METRIC[Task.LABEL],
    ),
    Task.RATING: DomainEntry(
        user_template="Which score fits the following text? Just answer with one of {options} without further explanation. text: {text}",
        reasons_template="Which score fits the following text, one of {options}? text: {text}",
        item_template='{response} is the score for "{content}"',
        summary_instruction=(
            "Based on this user's past scores, what are the most common scores they give for what they like and dislike? "
            'Answer in the following form: "most common positive score: <score>, most common negative score: <score>".'
        ),
        compact_verb="score",
        metric=METRIC[Task.RATING],
    ),
    Task.TEXT: DomainEntry(
        user_template="Respond to the following text without any explanation before or after it: {text}",
        reasons_template="Respond to the following text: {text}",
        item_template='"{response}" is the response to "{content}"',
        summary_instruction=(
            "Given this person's previous texts, describe a template for what they write: structure, style, punctuation, capitalization, wording and tone. "
            "Write the template and nothing else."
        ),
        compact_verb="style",
        metric=METRIC[Task.TEXT],
    ),
}
