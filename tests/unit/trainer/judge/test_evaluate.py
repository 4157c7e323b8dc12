import json
from collections.abc import Sequence
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from schemas.domain_entries import DomainEntry
from schemas.domains import BUILT_IN_DOMAINS, Domains
from tests.support.outcomes import make_case
from tests.support.token_limits import limits
from trainer.data.query_cases import QueryCase
from trainer.judge.evaluate import AskedCases, choose_cases, compare_arms, mean_score, respond, slices_by_history
from trainer.judge.gate import CANDIDATE, CHAMPION, ZERO_SHOT
from trainer.learn.rewards import answer_of, reward_of


class Recorded:
    """Completes with nothing. `limits` are those of the prompts."""

    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: "")

    def __init__(self) -> None:
        self.limits: list[int] = []

    def complete(self, prompts: Sequence[list[int]], limits: Sequence[int]) -> list[list[int]]:
        self.limits += limits
        return [[] for _ in prompts]


def cases(users: int, per_user: int, domain: str = "letters") -> list[QueryCase]:
    return [make_case(n, user=f"u{u}", domain=domain) for u in range(users) for n in range(per_user)]


def test_cases_are_spread_evenly_over_users_and_domains() -> None:
    many = cases(5, 4) + cases(1, 50, "many") + cases(5, 4, "other")
    chosen = choose_cases(many, 22)
    counts = {(case.user, case.domain): sum(c.user == case.user and c.domain == case.domain for c in chosen) for case in many}
    assert sorted(counts.values()) == [2] * 11
    assert choose_cases(list(reversed(many)), 22) == chosen
    assert len(choose_cases(many, 1000)) == len(many)


def test_the_latest_cases_of_a_user_come_first() -> None:
    assert [case.query.text for case in choose_cases(cases(1, 5), 1)] == ["question 4"]


def test_arms_are_paired_by_user_and_higher_is_better() -> None:
    judged = cases(20, 3)
    answers = {ZERO_SHOT: ["a"] * 60, CHAMPION: ["a"] * 60, CANDIDATE: ["b"] * 57 + ["a"] * 3}
    evaluation = compare_arms(judged, answers, {}, entries=BUILT_IN_DOMAINS)
    domain = evaluation.domains["letters"]
    assert (domain.metric, domain.users, domain.cases) == ("accuracy", 20, 60)
    assert domain.scores == {ZERO_SHOT: 0.0, CHAMPION: 0.0, CANDIDATE: pytest.approx(0.95)}
    assert domain.metrics[CANDIDATE] == {"accuracy": pytest.approx(0.95)}
    gain = domain.intervals["candidate_minus_champion"]
    assert gain.mean == pytest.approx(0.95) and 0.8 < gain.low <= gain.high <= 1.0
    assert domain.intervals["champion_minus_zero_shot"] == (0.0, 0.0, 0.0)


def test_users_weigh_the_same_however_many_cases_they_have() -> None:
    judged = [*cases(1, 9), make_case(0, user="quiet")]
    evaluation = compare_arms(judged, {ZERO_SHOT: ["a"] * 10, CANDIDATE: ["b"] * 9 + ["a"]}, {}, entries=BUILT_IN_DOMAINS)
    assert evaluation.domains["letters"].scores[CANDIDATE] == 0.5
    assert evaluation.overall.intervals["candidate_minus_zero_shot"].mean == 0.5


def test_the_overall_figure_is_the_mean_over_domains_of_users_who_differ() -> None:
    judged = cases(4, 1) + cases(2, 1, "other")
    evaluation = compare_arms(judged, {ZERO_SHOT: ["a"] * 6, CANDIDATE: ["b"] * 4 + ["a"] * 2}, {}, entries=BUILT_IN_DOMAINS)
    assert evaluation.overall.scores[CANDIDATE] == 0.5 and evaluation.overall.users == 4
    assert evaluation.overall.intervals["candidate_minus_zero_shot"].mean == 0.5
    json.dumps(asdict(evaluation))


def test_every_question_is_completed_within_the_limit_of_its_domain() -> None:
    completer, entries = Recorded(), Domains({"brief": DomainEntry(max_new_tokens=5)})
    sets = [cases(1, 2), [make_case(domain="brief"), make_case(5, domain="brief", items=0)]]
    asked = [AskedCases(of_set, [[1] if case.items else None for case in of_set]) for of_set in sets]
    rewrites = respond(completer, asked, limits(512, 100, entries))
    assert completer.limits == [100, 100, 55] and [len(each.answers) for each in rewrites] == [2, 2]


def test_slices_by_history_compare_with_the_k_of_the_cases_domain() -> None:
    judged = [
        make_case(n, domain=domain, items=items) for n, (domain, items) in enumerate([("letters", 3), ("letters", 4), ("brief", 1), ("brief", 2), ("brief", 0)])
    ]
    assert slices_by_history(judged, 4, Domains({"brief": DomainEntry(k=2)})) == {"few_items": [0, 2], "many_items": [1, 3]}


def test_a_domain_of_several_tasks_is_judged_task_by_task() -> None:
    judged = [
        make_case(0, user="u0"),
        make_case(1, user="u0", options=("1", "5"), base="1", truth="5"),
        make_case(2, user="u1", options=(), base="some words", truth="other words"),
        make_case(3, user="u1", domain="stars", options=("1", "2", "3"), base="1", truth="3"),
        make_case(4, user="u1", domain="stars", options=("1", "2", "3", "4", "5"), base="3", truth="5"),
    ]
    evaluation = compare_arms(
        judged, {ZERO_SHOT: [case.base_answer for case in judged], CANDIDATE: [case.truth for case in judged]}, {}, entries=BUILT_IN_DOMAINS
    )
    assert {name: domain.metric for name, domain in evaluation.domains.items()} == {
        "letters/label": "accuracy",
        "letters/rating": "rating_score",
        "letters/text": "style_f1",
        "stars": "rating_score",
    }
    assert [domain.cases for domain in evaluation.domains.values()] == [1, 1, 1, 2]
    assert evaluation.domains["stars"].metrics[ZERO_SHOT] == {"rating_score": 0.25, "mae": 2.0}
    assert evaluation.overall.scores == {CANDIDATE: 1.0, ZERO_SHOT: pytest.approx((0 + 0 + 0.5 + 0.25) / 4)}


@pytest.mark.parametrize("options", [("²", "³"), ("--5", "5"), ("9" * 256, "-" + "9" * 255), ("5",), ("-1", "0")])
def test_every_option_is_a_truth_that_can_be_scored(options: tuple[str, ...]) -> None:
    case = make_case(options=options, base="nan", truth=options[0])
    evaluation = compare_arms([case], {ZERO_SHOT: ["nan"], CANDIDATE: [options[0]]}, {}, entries=BUILT_IN_DOMAINS)
    assert evaluation.overall.scores == {ZERO_SHOT: 0.0, CANDIDATE: 1.0}


def test_an_evaluation_without_cases_is_an_error() -> None:
    with pytest.raises(ValueError, match="held-out"):
        compare_arms([], {ZERO_SHOT: []}, {}, entries=BUILT_IN_DOMAINS)


@pytest.mark.parametrize(
    ("completion", "ended", "score", "usable"),
    [
        ("<think>x</think><personalized>b</personalized>", True, 1.0, True),
        ("<think>x</think><personalized> a </personalized>", True, 0.0, True),
        ("<think>x</think><personalized>b</personalized>", False, 0.0, False),
        ("<think>x</think><personalized>c</personalized>", True, 0.0, False),
        ("b", True, 0.0, False),
    ],
)
def test_rewards_go_only_to_answers_that_serving_would_give(completion: str, ended: bool, score: float, usable: bool) -> None:
    reward = reward_of(completion, ended, make_case(), BUILT_IN_DOMAINS)
    assert (reward.score, reward.usable) == (score, usable)
    assert reward.total(0.25) == score + 0.25 * usable


@pytest.mark.parametrize(
    ("options", "body", "answer", "score"),
    [
        (("Comedy", "action"), "comedy", "Comedy", 1.0),
        (("Polish", "polish"), "Polish", "Polish", 1.0),
        (("Polish", "polish"), "polish", "polish", 0.0),
        (("Polish", "polish"), "POLISH", None, 0.0),
    ],
)
def test_letter_case_counts_in_training_as_it_does_in_serving(options: tuple[str, ...], body: str, answer: str | None, score: float) -> None:
    case = make_case(options=options, base=options[1], truth=options[0])
    completion = f"<think>x</think><personalized>{body}</personalized>"
    assert answer_of(completion, case) == answer
    reward = reward_of(completion, True, case, BUILT_IN_DOMAINS)
    assert (reward.score, reward.usable) == (score, answer is not None)


def test_an_invalid_rating_earns_no_reward_although_lamp_counts_the_furthest_option() -> None:
    case = make_case(options=("1", "2", "3", "4", "5"), base="3", truth="3")
    assert reward_of("<think>x</think><personalized>7</personalized>", True, case, BUILT_IN_DOMAINS).score == 0.0
    assert answer_of("<think>x</think><personalized>7</personalized>", case) is None


def test_the_mean_score_is_the_overall_score() -> None:
    judged, answers = [*cases(1, 9), make_case(0, user="quiet"), *cases(2, 1, "other")], ["a"] * 9 + ["b", "a", "b"]
    assert mean_score(judged, answers, BUILT_IN_DOMAINS) == compare_arms(judged, {"it": answers}, {}, [], entries=BUILT_IN_DOMAINS).overall.scores["it"] == 0.5


def test_behaviour_is_reported_by_arm() -> None:
    judged = cases(2, 1)
    evaluation = compare_arms(
        judged,
        {"kept": ["a", "a"], "changed": ["b", "b"]},
        {},
        [],
        {"changed": ["<think>so b</think><personalized>b</personalized>"] * 2},
        entries=BUILT_IN_DOMAINS,
    )
    assert evaluation.behaviour["kept"]["draft_share"] == 1.0 and "consistent_share" not in evaluation.behaviour["kept"]
    assert (evaluation.behaviour["changed"]["draft_share"], evaluation.behaviour["changed"]["consistent_share"]) == (0.0, 1.0)


def test_only_arms_that_answered_are_compared() -> None:
    judged = cases(4, 1)
    evaluation = compare_arms(judged, {"one": ["a"] * 4, "two": ["b"] * 4}, {}, [("two", "one"), ("three", "one")], entries=BUILT_IN_DOMAINS)
    assert evaluation.overall.intervals == {"two_minus_one": (1.0, 1.0, 1.0)}
