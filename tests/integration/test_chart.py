"""The chart, as helm itself sees it: valid, refusing what can't work, and making what it made before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from spreadpilot_core.ibkr.kubernetes.rights import FOLLOWERS, needed
from spreadpilot_core.ibkr.settings import Settings
from support.helm import CHART, GOLDEN, HelmError, helm, may_build_helm, rendered, values_file

pytestmark = [pytest.mark.real_part("helm"), may_build_helm]

CASES = sorted(each.name.partition(".")[0] for each in GOLDEN.glob("*.values.yaml"))


@pytest.mark.parametrize("case", CASES)
def test_the_chart_makes_what_it_made_before(case: str, tmp_path: Path) -> None:
    """A change shows in the golden file, to be looked at: `PYTHONPATH=tests .venv/bin/python -m support.helm` writes them anew."""
    assert rendered(case, tmp_path) == (GOLDEN / f"{case}.yaml").read_text()


@pytest.mark.parametrize("case", CASES)
def test_helm_has_nothing_against_it(case: str, tmp_path: Path) -> None:
    """`helm lint --strict`, with each set of values."""
    values = GOLDEN / f"{case}.values.yaml"
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "--values", str(values), home=tmp_path)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "store.mongodb.uriSecret.name is needed"),
        ({"store": {"kind": "local"}}, "set replicas to 1, or store.kind to mongodb"),
        (
            {"store": {"kind": "local"}, "replicas": 1, "api": {"enabled": True}},
            "tokens are not sent over the network in clear",
        ),
        ({"store": {"kind": "redis"}}, "kind"),
        ({"settings": {"runtime_url": "docker:"}}, "runtime_url"),
        ({"settings": {"Login-Budget": 3}}, "Login-Budget"),
        ({"settings": {"followers_url": "kubernetes:"}}, "followers_url"),
        ({"replica": 2}, "replica"),
        ({"replicas": "two"}, "replicas"),
    ],
)
def test_what_can_not_work_is_refused_by_name(values: dict[str, Any], told: str, tmp_path: Path) -> None:
    """Before anything is installed, and with the value's name; a slip of the pen is no value."""
    with pytest.raises(HelmError, match=told):
        helm("template", "fleet", str(CHART), "--values", str(values_file(tmp_path, values)), home=tmp_path)


def test_every_value_has_a_place_in_the_schema() -> None:
    """What `values.yaml` shows is what the schema knows: nothing is there for one of them alone."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert set(yaml.safe_load("\n".join(lines))) == set(schema["properties"]) - {"global"}


def test_the_chart_sets_what_the_schema_keeps_from_settings() -> None:
    """A setting of the chart's own can't be set beside it, and none of those is a name that no setting has."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    owned = schema["properties"]["settings"]["propertyNames"]["not"]["enum"]
    said = (CHART / "templates" / "_environment.tpl").read_text()
    for name in owned:
        assert name in Settings.model_fields, name
    for name in Settings.model_fields:
        if f"GATEWAY_MANAGER_{name.upper()}," in said or f"name: {name.upper()}" in said:
            assert name in owned, name


def test_the_alert_rules_are_those_of_the_documentation(tmp_path: Path) -> None:
    """Word for word what a Prometheus without an operator loads, under the job's name that they know."""
    made = {each["kind"]: each for each in yaml.safe_load_all(rendered("everything", tmp_path)) if each}
    rules = (CHART.parents[1] / "prometheus" / "gateway-manager.rules.yml").read_text()
    assert made["PrometheusRule"]["spec"] == yaml.safe_load(rules)
    label = made["ServiceMonitor"]["spec"]["jobLabel"]
    assert made["Service"]["metadata"]["labels"][label] == "gateway-manager"
    assert 'job="gateway-manager"' in rules


def rights_in(case: str, home: Path) -> set[str]:
    """Verb by verb what the chart's roles give."""
    made = [each for each in yaml.safe_load_all(rendered(case, home)) if each]
    return {
        f"{verb} {resource}"
        for each in made
        if each["kind"] in ("Role", "ClusterRole")
        for rule in each["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_managers_role_is_what_it_needs_and_nothing_more(tmp_path: Path) -> None:
    """Verb by verb what the doctor asks for, but for what only a manager outside of the cluster does, and the lease beside it."""
    wanted = {str(right) for right in needed(is_inside=True, lease="fleet-manager")}
    assert rights_in("mongodb", tmp_path) == wanted
    assert rights_in("everything", tmp_path) == wanted | {str(right) for right in FOLLOWERS}


def test_followers_as_objects_are_read_in_the_namespace_that_the_role_is_in(tmp_path: Path) -> None:
    """Where the value is set, and not else; their definition is helm's, which removes none of them with a release."""
    made = [each for each in yaml.safe_load_all(rendered("everything", tmp_path)) if each]
    (manager,) = (each for each in made if each["kind"] == "Deployment")
    (container,) = manager["spec"]["template"]["spec"]["containers"]
    said = {each["name"]: each.get("value") for each in container["env"]}
    assert said["GATEWAY_MANAGER_FOLLOWERS_URL"] == "kubernetes:gateways"
    (role,) = (each for each in made if each["kind"] == "Role" and each["metadata"]["name"] == "traders")
    assert role["metadata"]["namespace"] == "gateways"
    assert "FOLLOWERS_URL" not in rendered("mongodb", tmp_path)
    assert "CustomResourceDefinition" not in rendered("everything", tmp_path)
    shown = helm("show", "crds", str(CHART), home=tmp_path)
    assert yaml.safe_load(shown)["metadata"]["name"] == "ibgateways.spreadpilot.gateway-manager"


def test_the_manager_is_locked_down_and_its_role_names_no_secret(tmp_path: Path) -> None:
    """Restricted Pod Security in full; no rule lets it read Secrets, use wildcards or touch other leases."""
    for case in CASES:
        made = [each for each in yaml.safe_load_all(rendered(case, tmp_path)) if each]
        pod = next(each for each in made if each["kind"] in ("Deployment", "StatefulSet"))["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        container = pod["containers"][0]["securityContext"]
        assert container == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        rules = [rule for each in made if each["kind"] in ("Role", "ClusterRole") for rule in each["rules"]]
        assert not any("secrets" in rule["resources"] or "*" in rule["resources"] + rule["verbs"] for rule in rules)
        cluster = [rule for each in made if each["kind"] == "ClusterRole" for rule in each["rules"]]
        assert cluster == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]
