"""The Helm chart, rendered and checked by Helm itself. scripts/deploy-tools.sh builds Helm; without it these tests skip."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from scripts.golden_chart import CASES, CHART, DEPLOY, KUBERNETES, SAMPLES, golden, helm, rendered
from tests.support.deploy_files import ALERTS, environment_of, parsed, workloads

HELM = helm()
pytestmark = pytest.mark.skipif(HELM is None, reason="Helm is missing: run scripts/deploy-tools.sh, which builds it with Go")


def program() -> str:
    assert HELM is not None
    return HELM


def refusal(*values: str) -> str:
    arguments = [part for value in values for part in ("--set", value)]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        rendered(program(), "default", arguments)
    return str(caught.value.stderr)


@pytest.mark.parametrize("case", CASES)
def test_helm_renders_what_is_checked_in(case: str) -> None:
    assert golden(program(), case) == (SAMPLES / f"{case}.yaml").read_text(), "run `python -m scripts.golden_chart`"


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_no_problem_in_the_chart(case: str) -> None:
    values = [part for name in CASES[case] for part in ("--values", str(DEPLOY / name))]
    lint = subprocess.run([program(), "lint", "--strict", str(CHART), "--kube-version", KUBERNETES, *values], capture_output=True, text=True, check=False)
    assert lint.returncode == 0, lint.stdout + lint.stderr


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ("settings.kafka.partitions=0", "/settings/kafka/partitions", "exclusiveMinimum"),
        ("settings.kafka.partitons=8", "/settings/kafka", "'partitons' not allowed"),
        ("settings.kafka.sasl_password=x", "/settings/kafka", "'sasl_password' not allowed"),
        ("settings.domains.Tickets.k=2", "/settings/domains", "'Tickets' not allowed"),
        ("settings.stack.dir=/data", "/settings", "'stack' not allowed"),
        ("settings.telemetry.http_port=80", "/settings/telemetry", "'http_port' not allowed"),
        ("settings.index.url=qdrant:6333", "/settings/index/url", "does not match pattern"),
        ("settings.registry.tracking_uri=sqlite:////mlflow.db", "/settings/registry/tracking_uri", "does not match pattern"),
        ("settings.base.url=null", "/settings/base", "missing property 'url'"),
        ("processes.base.settings.base.concurrency=0", "/processes/base/settings/base/concurrency", "exclusiveMinimum"),
        ("processes.trainer.replicas=2", "/processes/trainer", "'replicas' not allowed"),
        ("processes.promotor.enabled=true", "/processes", "'promotor' not allowed"),
        ("processes.trainer.storage.size=big", "/processes/trainer/storage/size", "does not match pattern"),
        ("image.tag=latest", "/image/tag", "'not' failed"),
        ("image.digest=sha256:abc", "/image/digest", "does not match pattern"),
        ("secretFiles[0].setting=kafka.password", "/secretFiles/0", "missing properties"),
        ("secretVariables[0].variable=AWS_SECRET_ACCESS_KEY", "/secretVariables/0", "missing properties"),
        ("networkPolicy.kafka.ports[0]=0", "/networkPolicy/kafka/ports/0", "minimum"),
        ("stopTimeoutS=0", "/stopTimeoutS", "minimum"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_its_path(value: str, path: str, reason: str) -> None:
    text = refusal(value)
    assert f"at '{path}'" in text and reason in text


def test_a_secret_that_is_no_secret_setting_is_refused() -> None:
    text = refusal("secretFiles[0].setting=kafka.bootstrap_servers", "secretFiles[0].secret=s", "secretFiles[0].key=k")
    assert "at '/secretFiles/0/setting'" in text


def test_bounds_and_mechanisms_that_keda_cannot_use_are_refused() -> None:
    assert "autoscaling.processes.base.max=1 is below min=2" in refusal("autoscaling.enabled=true", "autoscaling.processes.base.max=1")
    text = refusal("autoscaling.enabled=true", "settings.kafka.security_protocol=SASL_SSL")
    assert "autoscaling.authenticationRef: is empty, and settings.kafka.sasl_mechanism=none" in text


def test_oauthbearer_is_scaled_by_an_authentication_of_the_platform() -> None:
    kafka = "settings.kafka.security_protocol=SASL_SSL,settings.kafka.sasl_mechanism=OAUTHBEARER"
    assert "settings.kafka.sasl_mechanism=OAUTHBEARER" in refusal("autoscaling.enabled=true", kafka)
    found = parsed(rendered(program(), "default", ("--set", f"autoscaling.enabled=true,autoscaling.authenticationRef=ours,{kafka}")))
    triggers = [trigger for manifest in found if manifest["kind"] == "ScaledObject" for trigger in manifest["spec"]["triggers"]]
    assert {(trigger["metadata"]["sasl"], trigger["authenticationRef"]["name"]) for trigger in triggers} == {("oauthbearer", "ours")}
    assert not [manifest for manifest in found if manifest["kind"] == "TriggerAuthentication"]


def test_processes_can_have_users_of_their_own() -> None:
    password = '{"setting": "kafka.sasl_password", "key": "password", "secret": "%s", "processes": ["%s"]}'
    files = ",".join(password % (f"of-{name}", name) for name in ("base", "topics"))
    values = ("--set-json", f"secretFiles=[{files}]", "--set", "topicsJob.enabled=true,topicsJob.settings.kafka.sasl_username=owner")
    own = ("--set", "processes.base.settings.kafka.sasl_username=base-user")
    found = parsed(rendered(program(), "default", (*values, *own)))
    mounted = {
        name: [source["secret"]["name"] for volume in spec["volumes"] if volume["name"] == "secrets" for source in volume["projected"]["sources"]]
        for name, spec in workloads(found)
    }
    assert {name: secrets for name, secrets in mounted.items() if secrets} == {"base": ["of-base"], "topics": ["of-topics"]}
    users = {name: environment_of(spec["containers"][0], found).get("RETOUCH_KAFKA__SASL_USERNAME") for name, spec in workloads(found)}
    assert {name: user for name, user in users.items() if user} == {"base": "base-user", "topics": "owner"}


def test_two_secrets_for_one_setting_of_a_process_are_refused() -> None:
    files = '{"setting": "kafka.sasl_password", "key": "k", "secret": "a"},{"setting": "kafka.sasl_password", "key": "k", "secret": "b", "processes": ["base"]}'
    with pytest.raises(subprocess.CalledProcessError) as caught:
        rendered(program(), "default", ("--set-json", f"secretFiles=[{files}]"))
    assert "two entries set kafka.sasl_password of base" in caught.value.stderr


def test_rules_and_dashboard_are_rendered_for_the_namespace() -> None:
    found = {
        manifest["kind"]: manifest
        for manifest in parsed(rendered(program(), "production", ("--set", "monitoring.runbook=docs/deploy.md")))
        if manifest["metadata"]["name"] in ("retouch", "retouch-dashboard")
    }
    own = ALERTS.read_text().replace("absent(retouch_group_lag_records{", 'absent(retouch_group_lag_records{namespace="retouch", ')
    assert found["PrometheusRule"]["spec"] == yaml.safe_load(own)
    assert found["ConfigMap"]["data"]["retouch.json"].rstrip() == (CHART / "files" / "dashboard.json").read_text().rstrip()
    assert found["PrometheusRule"]["metadata"]["labels"]["release"] == found["PodMonitor"]["metadata"]["labels"]["release"] == "prometheus"


def test_the_runbook_of_alerts_is_a_page_of_this_repository_or_the_url_of_a_copy() -> None:
    url = "https://git.example.com/retouch/docs/deploy.md"
    for page, values in (("docs/deploy.md", ()), (url, ("--set", f"monitoring.runbook={url}"))):
        found = parsed(rendered(program(), "default", ("--set", "monitoring.rules=true", *values)))
        (rules,) = (manifest for manifest in found if manifest["kind"] == "PrometheusRule")
        pages = {rule["annotations"]["runbook_url"].partition("#")[0] for group in rules["spec"]["groups"] for rule in group["rules"]}
        assert pages == {page}


def test_a_process_that_is_off_has_no_alert_for_its_group() -> None:
    values = ("--set", "monitoring.rules=true,processes.teacher.enabled=false")  # sources is off by default
    (rules,) = (manifest for manifest in parsed(rendered(program(), "default", values)) if manifest["kind"] == "PrometheusRule")
    found = {rule["labels"]["process"] for group in rules["spec"]["groups"] for rule in group["rules"] if "process" in rule["labels"]}
    assert found == {"streams", "base", "strategies", "reflection", "profiles", "quality"}


def test_without_an_operator_token_the_page_stays_on_loopback() -> None:
    def hosts(case: str) -> list[str]:
        return [
            entry["value"]
            for manifest in parsed(rendered(program(), case))
            if manifest["kind"] == "StatefulSet"
            for entry in manifest["spec"]["template"]["spec"]["containers"][0]["env"]
            if entry["name"] == "RETOUCH_PROMOTION__HOST"
        ]

    assert hosts("default") == [] and hosts("production") == ["0.0.0.0"]


def test_two_releases_in_a_namespace_share_no_name() -> None:
    def names(release: str) -> set[tuple[str, str]]:
        command = [program(), "template", release, str(CHART), "--kube-version", KUBERNETES, "--set", "autoscaling.enabled=true,topicsJob.enabled=true"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return {(manifest["kind"], manifest["metadata"]["name"]) for manifest in parsed(text)}

    assert len(names("one")) > 30 and not names("one") & names("two")
