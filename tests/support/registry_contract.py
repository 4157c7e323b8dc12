"""The contract of the registry on every MLflow store. A subclass provides the module fixtures `registry`, empty at first, and `folder`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from infra.checkpoints.verification import BadCheckpoint
from infra.errors import CannotContinue, RetryLater
from infra.registry.client import NoSuchVersion, RegisteredVersion, Registry
from infra.registry.tracking import MetricValue
from infra.registry.version_tags import DatasetLineage
from schemas.model_events import Alias
from schemas.promotion import CanaryPrompt, Transition, VersionState
from tests.support.checkpoint_files import write_checkpoint

LINEAGE = DatasetLineage("outcomes", "d" * 64, {"outcomes": {0: (0, 120), 3: (5, 90)}})
TAGS = {"stage": "rl", "code_version": "abc", "gate": "x" * 9_000}
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
GATED = Transition(
    seq=1,
    before=VersionState.REGISTERED,
    after=VersionState.GATED,
    at=NOON,
    actor="promoter",
    reason="better",
    canary_prompts=(CanaryPrompt(prompt="p", token_ids=(1, 2)),),
)
SHADOW = Transition(
    seq=2,
    before=VersionState.GATED,
    after=VersionState.SHADOW,
    at=NOON + timedelta(seconds=1),
    actor="promoter",
    reason="next",
    experiment=UUID(int=7),
    share=0.1,
)


class RegistryContract:
    @pytest.fixture(scope="class")
    @classmethod
    def registered(cls, registry: Registry, folder: Path) -> RegisteredVersion:
        checkpoint = write_checkpoint(folder / "first")
        (checkpoint / "more").mkdir()
        (checkpoint / "more" / "notes.txt").write_text("in a folder of its own")
        return registry.register(checkpoint, parent="0", tags=TAGS, metrics={"eval/tag": 0.5}, params={"seed": 7}, dataset=LINEAGE)

    def test_a_version_is_read_with_everything_it_was_registered_with(self, registry: Registry, registered: RegisteredVersion) -> None:
        version = registry.get(registered.version)
        assert version == registered
        assert (version.parent, version.tags, version.metrics, version.dataset) == ("0", TAGS, {"eval/tag": 0.5}, LINEAGE)
        assert (version.state, version.transitions, version.canary_prompts) == (VersionState.REGISTERED, (), ())
        assert set(version.files) == {"README.md", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "more/notes.txt"}

    def test_a_logged_model_holds_the_lineage(self, registry: Registry, registered: RegisteredVersion) -> None:
        client = registry._store.client
        version = client.get_model_version(registry.name, registered.version)
        model = client.get_logged_model(version.tags["logged_model"])
        assert {metric.key: metric.value for metric in model.metrics} == {"eval/tag": 0.5} and model.params == {"seed": "7"}
        assert {**TAGS, "parent": "0", "sha256": registered.digest, "dataset": LINEAGE.to_json()}.items() <= model.tags.items()
        run = client.get_run(model.source_run_id)
        assert [dataset_input.dataset.name for dataset_input in run.inputs.dataset_inputs] == ["outcomes"]
        assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]

    def test_an_alias_points_to_one_version_or_none(self, registry: Registry, registered: RegisteredVersion, tmp_path: Path) -> None:
        second = registry.register(write_checkpoint(tmp_path / "second", weights=b"\x02" * 16), parent=registered.version)
        assert registry.resolve(Alias.CHALLENGER) is None
        registry.remove_alias(Alias.CHALLENGER)
        for version in (registered, second):
            registry.set_alias(Alias.CHAMPION, version.version)
            champion = registry.resolve(Alias.CHAMPION)
            assert champion and (champion.version, champion.digest, champion.aliases) == (version.version, version.digest, (Alias.CHAMPION,))
        assert registry.get(registered.version).aliases == ()
        listed = {version.version: version for version in registry.versions()}
        assert list(listed) == sorted(listed, key=int) and listed[second.version].aliases == (Alias.CHAMPION,)
        assert listed[registered.version] == registered
        for _ in range(2):
            registry.remove_alias(Alias.CHAMPION)
            assert registry.resolve(Alias.CHAMPION) is None

    def test_a_transition_is_written_once_in_order_and_does_not_change(self, registry: Registry, tmp_path: Path) -> None:
        version = registry.register(write_checkpoint(tmp_path / "judged")).version
        with pytest.raises(CannotContinue, match=f"version {version}: transition 2 comes before 1"):
            registry.record(version, SHADOW)
        for step in (GATED, GATED, SHADOW, GATED):
            registry.record(version, step)
        with pytest.raises(CannotContinue, match=f"version {version}: transition 2 is taken already"):
            registry.record(version, SHADOW.model_copy(update={"share": 0.2}))
        judged = registry.get(version)
        assert (judged.transitions, judged.state, judged.canary_prompts) == ((GATED, SHADOW), VersionState.SHADOW, GATED.canary_prompts)
        assert judged.tags == {} and registry.versions()[-1] == judged

    @pytest.mark.parametrize("text", ["{", "{}", SHADOW.model_dump_json()])
    def test_a_tag_edited_by_hand_makes_only_that_history_unreadable(self, registry: Registry, tmp_path: Path, text: str) -> None:
        version = registry.register(write_checkpoint(tmp_path / "edited")).version
        registry.record(version, GATED)
        for tag, value in (("promotion.0001", text), ("dataset", "{"), ("files", "[" * 50_000), ("logged_model", "m-deleted")):
            registry._store.client.set_model_version_tag(registry.name, version, tag, value)
        registry.set_alias(Alias.CHALLENGER, version)
        listed = next(listed for listed in registry.versions() if listed.version == version)
        assert (listed.aliases, listed.metrics, listed.dataset, listed.files) == ((Alias.CHALLENGER,), {}, None, {}) and registry.fetch(
            version, tmp_path / "models"
        )
        for read in (lambda: listed.state, lambda: list(listed.transitions), lambda: listed.transitions[-1], lambda: bool(listed.canary_prompts)):
            with pytest.raises(RetryLater, match=rf"version {version}: its tag promotion\.0001"):
                read()
        registry._store.client.set_model_version_tag(registry.name, version, "promotion.0001", GATED.model_dump_json())
        assert registry.get(version).state is VersionState.GATED

    def test_a_run_interrupted_while_registering_continues_with_its_logged_model(self, registry: Registry, tmp_path: Path) -> None:
        checkpoint = write_checkpoint(tmp_path / "fourth", weights=b"\x05" * 16)
        tracked = registry.tracking.begin("run-4", {"seed": 7}, LINEAGE)
        begun = registry._logged_model(tracked, {"seed": 7})
        assert registry.find_by_run("run-4") is None
        version = registry.register(checkpoint, tracked=tracked, tags={"run_id": "run-4"}, params={"seed": 7}, dataset=LINEAGE)
        assert registry._logged_model(tracked, {}).model_id == begun.model_id
        assert registry.find_by_run("run-4") == version == registry.get(version.version)

    def test_a_tracked_run_is_found_by_its_key_and_keeps_its_metrics_by_step(self, registry: Registry) -> None:
        tracking = registry.tracking
        tracked = tracking.begin("run-5", {f"param.{number}": number for number in range(150)}, LINEAGE)
        tracking.log(tracked, [MetricValue("rl/reward", step / 10, step) for step in range(1500)])
        assert tracking.begin("run-5", {"param.0": 9}, LINEAGE) == tracked != tracking.begin("run-6", {}, None)
        assert tracking.steps(tracked, "rl/reward") == list(range(1500)) and tracking.steps(tracked, "rl/kl") == []
        run = registry._store.client.get_run(tracked)
        assert len(run.data.params) == 150 and run.data.metrics == {"rl/reward": 149.9} and run.info.status == "RUNNING"
        tracking.end(tracked, "KILLED")
        assert registry._store.client.get_run(tracked).info.status == "KILLED"

    def test_fetched_files_are_equal_byte_for_byte(self, registry: Registry, registered: RegisteredVersion, folder: Path, tmp_path: Path) -> None:
        fetched = registry.fetch(registered.version, tmp_path)
        assert fetched == tmp_path / registered.version
        assert _content(fetched) == _content(folder / "first") and [path.name for path in tmp_path.iterdir()] == [registered.version]

    def test_nothing_is_written_to_the_terminal(self, registry: Registry, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        version = registry.register(write_checkpoint(tmp_path / "quiet")).version
        registry.fetch(version, tmp_path / "models")
        assert capfd.readouterr() == ("", "")

    def test_a_request_that_the_store_will_always_refuse_is_not_retried(self, registry: Registry) -> None:
        tracked = registry.tracking.begin("run-7", {}, None)
        with pytest.raises(CannotContinue, match="INVALID_PARAMETER_VALUE"):
            registry.tracking.log(tracked, [MetricValue("a name\nthat is none", 1.0, 0)])

    def test_a_version_that_retouch_did_not_register_is_not_loaded(self, registry: Registry, registered: RegisteredVersion, tmp_path: Path) -> None:
        client = registry._store.client
        existing = client.get_model_version(registry.name, registered.version)
        version = str(client.create_model_version(registry.name, existing.source, existing.run_id, model_id=existing.tags["logged_model"]).version)
        with pytest.raises(BadCheckpoint, match=f"version {version}: it has no tag sha256"):
            registry.fetch(version, tmp_path)

    def test_an_unknown_version_raises_no_such_version(self, registry: Registry, tmp_path: Path) -> None:
        for name in ("99", "../1", ""):
            for call in (lambda n: registry.get(n), lambda n: registry.set_alias(Alias.CHAMPION, n), lambda n: registry.fetch(n, tmp_path)):
                with pytest.raises(NoSuchVersion, match=f"'{name}'"):
                    call(name)


def _content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
