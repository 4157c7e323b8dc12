"""Rates, costs, neighbours and targets of `retouch bench ingest`, from given measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.ingest.bare_index import BareJob, fill
from bench.ingest.command import IngestOptions, check_local, lines, run
from bench.ingest.engine import Encoded, figures, share_of
from bench.ingest.neighbours import recall
from bench.ingest.picture import draw
from bench.ingest.plan import QUICK, arms
from bench.ingest.stream import Sample, bytes_per_item, indexed, longest_pause_s, steady
from bench.ingest.targets import causes, targets
from bench.ingest.texts import LEAST, generated, interactions, texts_of
from bench.ingest.vectors_given import ChecksumEmbedder
from infra.errors import BadSetting, CannotContinue
from infra.settings import load
from infra.settings.models import Dtype

SAMPLES = [Sample(10.0 + step, 100 * step, 0.5 * step, 0.1 * step, 1_000 * step) for step in range(1, 11)]


def arm(name: str, per_s: float, engine_per_s: float, recall: float | None = None) -> dict[str, Any]:
    return {
        "arm": name,
        "engine": {"per_s": engine_per_s, "cpu_ms_per_text": 10.0, "peak_mb": 500},
        "stream": {"per_s": per_s, "cpu_ms_per_event": 11.0, "broker_cpu_ms_per_event": 0.1, "peak_mb": 800, "timeline": [[0.0, 1], [1.0, 2]]},
        "of_engine": per_s / engine_per_s,
        "recall": recall,
    }


def measured(*measured_arms: dict[str, Any], given_per_s: float = 4_000.0, cpu_ratio: float = 1.0) -> dict[str, Any]:
    part = {"cpu_ms_per_event": 0.3, "from": 1, "to": 20_000}
    growth = {"early": part, "late": part | {"to": 120_000}, "cpu_ratio": cpu_ratio, "bytes_per_item": 3_000}
    stream = {"per_s": given_per_s, "cpu_ms_per_event": 0.3, "peak_mb": 400, "timeline": [[0.0, 1], [1.0, 2]]}
    return {
        "arms": list(measured_arms) or [arm("default", 95.0, 100.0), arm("processes-2-bfloat16", 285.0, 300.0, 0.99)],
        "vectors_given": {"stream": stream, "growth": growth, "bare_index": {"per_s": 6_000.0}, "of_bare_index": 0.7},
        "cores": 2,
    }


def test_the_rate_is_of_the_part_after_the_start() -> None:
    slow_start = [Sample(0.0, 50), *SAMPLES]
    found = steady(slow_start, 100, 1_000)
    assert (found["per_s"], found["from"], found["to"]) == (100.0, 100, 1_000)
    assert (found["cpu_ms_per_event"], found["broker_cpu_ms_per_event"]) == (5.0, 1.0)


def test_no_rate_is_made_of_one_sample() -> None:
    with pytest.raises(CannotContinue, match="use more texts"):
        steady(SAMPLES, 950, 1_000)


def test_memory_of_an_item_is_its_growth_and_none_without_growth() -> None:
    assert bytes_per_item(SAMPLES, 200) == 10
    assert bytes_per_item([Sample(0, 1, tree_bytes=9), Sample(1, 2, tree_bytes=8)], 0) is None


def test_the_longest_pause_is_between_two_changes() -> None:
    assert longest_pause_s([Sample(0.0, 1), Sample(0.5, 2), Sample(2.0, 3)]) == 1.5


def test_only_interactions_count_and_any_other_outcome_ends_the_run() -> None:
    page = '# TYPE retouch_streams_records_total counter\nretouch_streams_records_total{{processor="{}",outcome="{}"}} 7\n'
    assert indexed(page.format("history", "done")) == 7
    assert indexed(page.format("retrieval", "done")) == 0
    with pytest.raises(CannotContinue, match="set_aside"):
        indexed(page.format("history", "set_aside"))


def test_shares_of_an_engine_are_equally_long_and_complete() -> None:
    texts = ["x" * length for length in range(1, 101)]
    shares = [share_of(texts, number, 3) for number in range(3)]
    assert sorted(n for share in shares for n in share) == list(range(100))
    means = [sum(len(texts[n]) for n in share) / len(share) for share in shares]
    assert max(means) - min(means) <= 2


def test_an_engines_rate_is_from_the_first_beginning_to_the_last_end() -> None:
    reports = [Encoded(100, 10.0, 12.0, 1.0, 2**20), Encoded(100, 10.5, 14.0, 3.0, 2**20)]
    assert figures(reports) == {"per_s": 50.0, "cpu_ms_per_text": 20.0, "peak_mb": 2}


def test_recall_is_one_for_equal_vectors_and_falls_with_noise() -> None:
    vectors = ChecksumEmbedder().vectors(generated(200))
    assert recall(vectors, vectors) == 1.0
    noise = np.random.default_rng(1).standard_normal(vectors.shape).astype(np.float32)
    assert recall(vectors, vectors + 0.001 * noise) > recall(vectors, noise)
    assert recall(vectors, noise) < 0.5


def test_a_text_is_not_its_own_neighbour() -> None:
    vectors = np.eye(9, dtype=np.float32)
    vectors[0] = vectors[1]
    assert recall(vectors, vectors, nearest=1, asked=2) == 1.0
    other = np.eye(9, dtype=np.float32)
    other[0] = other[2]
    assert recall(vectors, other, nearest=1, asked=1) == 0.0


def test_bfloat16_has_arms_only_where_the_processor_multiplies_it() -> None:
    assert [arm.name for arm in arms(2, has_bfloat16=False)] == ["default", "processes-2"]
    both = arms(4, has_bfloat16=True)
    assert [(arm.processes, arm.dtype) for arm in both] == [(0, Dtype.FLOAT32), (4, Dtype.FLOAT32), (0, Dtype.BFLOAT16), (4, Dtype.BFLOAT16)]
    assert len({arm.name for arm in both}) == 4


def test_the_settings_of_an_arm_are_settings_of_the_embedder() -> None:
    for each in arms(2, has_bfloat16=True):
        changed = load().changed(embedder=each.settings()).embedder
        assert (changed.processes, changed.dtype, each.engines) == (each.processes, each.dtype, max(1, each.processes))


def test_a_good_run_meets_every_target_and_needs_no_cause() -> None:
    assert [target.met for target in targets(measured())] == [True] * 5
    assert causes(measured(), [], has_bfloat16=True) == []


@pytest.mark.parametrize(
    ("run", "missed"),
    [
        (measured(arm("default", 80.0, 100.0)), ["default: events a second, share of its engine alone", "best arm, share of the default arm (default)"]),
        (measured(arm("default", 95.0, 100.0), arm("b", 285.0, 300.0, 0.97)), ["b: recall@6 of neighbours against float32"]),
        (measured(given_per_s=2_999.0), ["vectors given, events a second"]),
        (measured(cpu_ratio=1.2), ["vectors given: CPU of an event at 120000 items, share of that at 20000"]),
    ],
)
def test_each_target_can_be_missed(run: dict[str, Any], missed: list[str]) -> None:
    assert [target.name for target in targets(run) if not target.met] == missed


def test_a_missed_speed_is_explained_by_the_engines_and_the_processor() -> None:
    run = measured(arm("default", 80.0, 100.0), arm("processes-2", 150.0, 190.0))
    speed, overhead = causes(run, [target.name for target in targets(run) if not target.met], has_bfloat16=False)[::-1]
    assert "190" not in overhead and "1.90" in overhead and "bfloat16" in overhead
    assert "11.0 ms" in speed and "2 cores" in speed


def test_generated_texts_are_distinct_repeatable_and_of_many_lengths() -> None:
    texts = generated(2_000)
    assert len(set(texts)) == 2_000
    assert texts == generated(2_000) != generated(2_000, seed=1)
    words = sorted(len(text.split()) for text in texts)
    assert 26 <= words[1_000] <= 28 and words[40] <= 15 and words[-40] >= 50


def test_a_file_gives_its_distinct_lines(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_text("\n".join([*(f"text {n}" for n in range(LEAST)), "", "text 0"]))
    assert texts_of(10_000, file) == [f"text {n}" for n in range(LEAST)]
    assert len(texts_of(LEAST - 50, file) if LEAST <= 50 else texts_of(LEAST, file)) == LEAST


@pytest.mark.parametrize("content", [b"one\ntwo\n", b"\xff\xfe"])
def test_a_file_without_texts_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "texts").write_bytes(content)
    with pytest.raises(CannotContinue, match="texts"):
        texts_of(10_000, tmp_path / "texts")


def test_interactions_are_of_users_in_turn_and_their_text_is_embedded_as_it_is() -> None:
    found = list(interactions(["a", "b", "c"], users=2))
    assert [each.user for each in found] == ["u00000", "u00001", "u00000"]
    assert [each.response for each in found] == ["a", "b", "c"]
    assert len({each.interaction_id for each in found}) == 3


def test_given_vectors_are_unit_vectors_and_equal_for_equal_texts() -> None:
    vectors = ChecksumEmbedder().vectors(["a", "b", "a"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0)
    assert (vectors[0] == vectors[2]).all() and not np.allclose(vectors[0], vectors[1])


async def test_the_bare_index_takes_every_point(tmp_path: Path) -> None:
    assert (await fill(BareJob(tmp_path, points=50, users=5, batch=20))).per_s > 0


def test_a_server_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    settings = load()
    with pytest.raises(BadSetting, match=r"embedder\.url"):
        run(settings.changed(embedder={"url": "http://127.0.0.1:1/v1", "model": "m"}), IngestOptions(tmp_path))
    with pytest.raises(BadSetting, match="QDRANT_URL"):
        check_local(settings.changed(index={"url": "http://127.0.0.1:1"}))


def test_an_unwritable_folder_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotContinue, match="file"):
        run(load(), IngestOptions(tmp_path / "file", quick=True))


def test_the_report_as_text_and_picture_has_every_arm(tmp_path: Path) -> None:
    run = measured() | {"peer": {"per_s": 150.0, "processes": 2}, "targets": [], "causes": ["because"], "seconds": 9.0, "load_average_before": 0.1}
    text = "\n".join(lines(run, tmp_path))
    assert all(part in text for part in ("default: 95 events/s", "processes-2-bfloat16: 285", "150 texts/s", "4000 events/s", "because"))
    draw(run | {"started_at": "2026-12-01"}, tmp_path / "ingest.png")
    assert (tmp_path / "ingest.png").stat().st_size > 10_000


def test_the_quick_plan_has_samples_in_both_parts_of_its_growth() -> None:
    assert QUICK.early[1] <= QUICK.late[0] < QUICK.late[1] <= QUICK.vectors
