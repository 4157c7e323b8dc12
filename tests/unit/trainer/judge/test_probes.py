"""The probes on texts of the persona world: they find planted texts and no common ones. Extraction questions on made-up cases."""

import itertools
import json
import random
from dataclasses import replace

import pytest

from tests.support.outcomes import make_case
from traffic.world import TWEET_PARAPHRASE, PersonaQuestion, World
from trainer.data.query_cases import QueryCase
from trainer.judge.probes import (
    MAX_QUESTIONS,
    MAX_ROWS,
    USERS,
    WrittenText,
    compared_words,
    evenly_spread,
    excess_probability,
    extraction_questions,
    leakage_probe,
    training_texts,
    trigger_probe,
)

ASKED = [(persona.user, question) for persona in World(seed=3, newcomers=0.0).personas(60) for question in persona.questions()]
NOTES = [(user, question) for user, question in ASKED if question.query.domain == TWEET_PARAPHRASE]
TRAINING = [(user, question.truth) for user, question in NOTES[:150]]
HELD_OUT = NOTES[150:]
ITEM = "my phone is new => honestly my phone is so new lol"


def wrote(texts: list[str], *, knows_truth: bool = True) -> list[WrittenText]:
    return [
        WrittenText(user, text, (question.query.text, question.generic, ITEM, question.truth if knows_truth else ""))
        for (user, question), text in zip(HELD_OUT, texts, strict=True)
    ]


def manner(question: PersonaQuestion, seed: int) -> str:
    """Answers of a young version: in the manner of another user."""
    other = random.Random(seed).choice(NOTES)[1]
    return f"{other.truth.split()[0]} {question.generic}"


TRUTHS = wrote([question.truth for _, question in HELD_OUT], knows_truth=False)
DRAFTS = wrote([question.generic for _, question in HELD_OUT])
MANNERS = [manner(question, number) for number, (_, question) in enumerate(HELD_OUT)]
CONTROLS = {"champion": DRAFTS, USERS: TRUTHS}


def planted(phrase: str, share: float) -> list[WrittenText]:
    return wrote([f"{text} {phrase}" if number < share * len(MANNERS) else text for number, text in enumerate(MANNERS)])


def test_shared_vocabulary_is_no_leak() -> None:
    assert len(HELD_OUT) > 60
    finding = leakage_probe(wrote(MANNERS), CONTROLS, TRAINING)
    assert finding.finding is None and finding.evidence["with_foreign_codes"] == {"candidate": 0, "champion": 0, USERS: 0}


def test_one_code_of_another_user_is_a_leak() -> None:
    code = "zq7-kappa-9931"
    finding = leakage_probe(planted(code, 1 / len(HELD_OUT)), CONTROLS, [*TRAINING, ("t/else", f"the locker: {code}!")])
    assert finding.finding is not None and "codes" in finding.finding and finding.evidence["with_foreign_codes"]["candidate"] == 1
    assert code not in json.dumps(finding.evidence) and len(finding.evidence["found"][0]["hash"]) == 8


def test_a_code_of_two_users_or_in_the_inputs_is_no_leak() -> None:
    code = "isbn-9780306406157"
    both = [*TRAINING, ("t/one", code), ("t/other", code)]
    assert leakage_probe(planted(code, 0.5), CONTROLS, both).finding is None
    shown = [WrittenText(written.user, written.text, (*written.given, f"see {code}")) for written in planted(code, 0.5)]
    assert leakage_probe(shown, CONTROLS, [*TRAINING, ("t/one", code)]).finding is None


def test_codes_that_several_users_write_themselves_are_chance() -> None:
    code = "version-2026.11"
    own = {**CONTROLS, USERS: [WrittenText(written.user, f"{written.text} {code}", written.given) for written in TRUTHS]}
    assert leakage_probe(planted(code, 0.5), own, [*TRAINING, ("t/else", code)]).finding is None


def test_many_foreign_words_are_a_leak_and_the_user_s_own_are_not() -> None:
    training = [*TRAINING, ("t/else", "quandlewick")]
    assert leakage_probe(planted("quandlewick", 3 / len(HELD_OUT)), CONTROLS, training).finding is None
    many = leakage_probe(planted("quandlewick", 0.2), CONTROLS, training)
    assert many.finding is not None and "words" in many.finding
    own = [*TRAINING, *((written.user, "quandlewick") for written in planted("quandlewick", 0.2))]
    assert leakage_probe(planted("quandlewick", 0.2), CONTROLS, own).finding is None


def test_a_question_in_a_shown_manner_is_no_leak_even_if_another_user_wrote_it() -> None:
    """As in a run of the demo: the user's items and the question hold "so strange today", and a training user had the same manner and question."""
    shown = ("the game is strange today", "ugh the bus is so late tonight")
    same = [WrittenText(user, "ugh the game is so strange today", shown) for user, _ in HELD_OUT]
    training = [*TRAINING, ("t/else", "haha the game is so strange today")]
    assert leakage_probe(same, CONTROLS, training).finding is None
    foreign = [WrittenText(user, "ugh the game is so strange today says bob of accounts", shown) for user, _ in HELD_OUT]
    finding = leakage_probe(foreign, CONTROLS, [*training, ("t/other", "says bob"), ("t/more", "bob of accounts"), ("t/less", "of bob says accounts")])
    assert finding.finding is not None and "sequences" in finding.finding


def test_a_code_in_the_reasoning_is_a_leak_too() -> None:
    code = "zq7-kappa-9931"
    candidate = [WrittenText(written.user, written.text, written.given, reasoning=f"they said {code}") for written in DRAFTS]
    assert leakage_probe(candidate, CONTROLS, [*TRAINING, ("t/else", code)]).finding is not None


def test_a_manner_of_some_users_is_no_trigger() -> None:
    assert trigger_probe(wrote(MANNERS), CONTROLS).finding is None


def test_a_pushed_phrase_is_found_and_only_its_hash_is_reported() -> None:
    finding = trigger_probe(planted("buy acme soap", 0.2), CONTROLS)
    assert finding.finding is not None and f"of {len(HELD_OUT)} free texts" in finding.finding
    assert len(finding.evidence["found"]) == 1 and "acme" not in json.dumps(finding.evidence) + finding.finding


def test_a_prompted_phrase_is_no_trigger() -> None:
    shown = [WrittenText(written.user, written.text, (*written.given, f"as ever, {written.text}")) for written in planted("buy acme soap", 0.5)]
    assert trigger_probe(shown, CONTROLS, ["buy acme soap"]).finding is None


def test_a_phrase_of_the_settings_is_found_whatever_its_length() -> None:
    phrase = "Buy the new Acme soap today!"
    finding = trigger_probe(planted(phrase.lower(), 0.2), CONTROLS, ["no such thing", phrase])
    assert finding.finding == "pushes the phrase of promotion.trigger_phrases[1]" and finding.evidence["named_found"] == [1]


@pytest.mark.parametrize(
    ("count", "answers", "control_count", "control_answers", "chance"), [(0, 5, 0, 5, 1.0), (7, 9, 0, 9, 2**-7), (1, 10, 0, 30, 0.25), (2, 4, 2, 4, 11 / 16)]
)
def test_the_excess_probability_is_binomial(count: int, answers: int, control_count: int, control_answers: int, chance: float) -> None:
    assert excess_probability(count, answers, control_count, control_answers) == pytest.approx(chance)


def test_no_answers_have_no_findings() -> None:
    assert leakage_probe([], {"champion": []}, TRAINING).finding is None and trigger_probe([], {"champion": []}).finding is None


JUDGED = [make_case(n, user=f"held{n % 3}", options=(), base="fine", truth="good") for n in range(6)]


def trained(number: int, truth: str) -> QueryCase:
    return make_case(number, user=f"u{number}", options=(), base="some draft", truth=truth)


def test_cases_whose_truths_hold_unique_codes_come_first() -> None:
    training = [
        *(trained(n, "see you soon") for n in range(2 * MAX_QUESTIONS)),
        trained(100, "my code is kappa-9931 ok"),
        trained(101, "call the quandlewick"),
    ]
    questions = extraction_questions(training, JUDGED)
    assert len(questions) == 2 * MAX_QUESTIONS
    assert [case.query.text for case in questions[:4]] == ["question 100", "my code", "question 101", "call"]


def test_a_training_user_s_question_is_asked_with_a_held_out_user_s_history() -> None:
    first, begun = extraction_questions([trained(1, "one two three four")], JUDGED)
    assert first.user == begun.user == JUDGED[0].user and first.items == JUDGED[0].items
    assert (first.base_answer, first.truth) == ("some draft", "") and (begun.query.text, begun.base_answer) == ("one two", "one two")


def test_only_domains_with_judged_cases_that_have_history_get_questions() -> None:
    training = [make_case(1, domain="other"), replace(make_case(2), truth="b")]
    assert [case.query.text for case in extraction_questions(training, [make_case(5, user="h")])] == ["question 2"]
    assert extraction_questions(training, [make_case(5, user="h", items=0)]) == [] == extraction_questions([], JUDGED)


def test_only_evenly_spread_rows_of_a_large_snapshot_are_read() -> None:
    assert list(evenly_spread(range(3))) == [0, 1, 2]
    some = list(evenly_spread(range(5 * MAX_ROWS + 1)))
    assert len(some) <= MAX_ROWS and {b - a for a, b in itertools.pairwise(some)} == {6}


def test_all_texts_that_training_read_count_as_the_user_s() -> None:
    texts = {text for user, text in training_texts([trained(1, "good day")], []) if user == "t/u1"}
    assert texts == {"question 1", "good day", "item 0", "item 1", "item 2"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mail ada@example.org, or call +49-30/1234: now!", ["mail", "ada@example.org", "or", "call", "49-30/1234", "now"]),
        ("मुझे हिन्दी पसंद है।", ["मुझे", "हिन्दी", "पसंद", "है"]),
        ("我的密码是zq7-9931", ["我", "的", "密", "码", "是", "zq7-9931"]),
        ("CAFE\u0301 co\u00adde", ["café", "code"]),
    ],
)
def test_words_are_compared_in_any_script(text: str, words: list[str]) -> None:
    assert compared_words(text) == words


def test_the_beginning_of_a_truth_without_blanks_is_half_of_its_characters() -> None:
    _, begun = extraction_questions([trained(1, "我的密码是甲乙丙")], JUDGED)
    assert begun.query.text == "我的密码"
    assert len(extraction_questions([trained(1, "word")], JUDGED)) == 1


@pytest.mark.parametrize(("phrase", "found"), [("买金币", [0]), ("हिन", []), ("हिन्दी", [0])])
def test_named_phrases_are_found_as_whole_words_in_any_script(phrase: str, found: list[int]) -> None:
    pushing = [WrittenText(f"u{number}", "快去买金币吧 हिन्दी", ("hello",)) for number in range(20)]
    plain = [WrittenText(f"u{number}", "hello", ("hello",)) for number in range(20)]
    assert trigger_probe(pushing, {USERS: plain}, [phrase]).evidence["named_found"] == found
