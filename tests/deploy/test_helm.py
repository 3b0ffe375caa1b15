"""The chart, rendered by Helm's own engine and held against Kubernetes' own schemas."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from reward_model.serving.settings import ScorerSettings
from service.settings import Settings, load_settings

KUBERNETES = ("1.30", kubernetes_validate.latest_version())
CASES = ("minimal", "everything", "own-policy-cpu")
Objects = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def chart(root: Path) -> Any:
    with helm_python.Chart.load(root / "helm") as loaded:
        yield loaded


def render(chart: Any, values: dict[str, Any]) -> Objects:
    """Objects by (kind, component); names are `demo-winnow-<component>`."""
    found: Objects = {}
    for name, text in chart.render(values, name="demo", namespace="prod").items():
        if name.endswith(".txt"):
            continue
        for item in filter(None, yaml.safe_load_all(text)):
            key = (item["kind"], item["metadata"]["labels"]["app.kubernetes.io/component"])
            assert key not in found, f"{key} twice"
            found[key] = item
    return found


def with_values(**changes: Any) -> dict[str, Any]:
    return {"keys": {"existingSecret": "winnow-keys"}, **changes}


def case(root: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((root / "helm" / "ci" / f"{name}-values.yaml").read_text())
    return values


def container(objects: Objects, component: str) -> dict[str, Any]:
    (only,) = pod(objects, component)["containers"]
    return dict(only)


def pod(objects: Objects, component: str) -> dict[str, Any]:
    return dict(objects["Deployment", component]["spec"]["template"]["spec"])


def environment(objects: Objects, component: str) -> dict[str, Any]:
    entries = container(objects, component)["env"]
    assert len({entry["name"] for entry in entries}) == len(entries)
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in entries}


@pytest.fixture(scope="module")
def minimal(chart: Any, root: Path) -> Objects:
    return render(chart, case(root, "minimal"))


@pytest.fixture(scope="module")
def everything(chart: Any, root: Path) -> Objects:
    return render(chart, case(root, "everything"))


@pytest.mark.parametrize("name", CASES)
def test_lint_finds_no_fault(root: Path, name: str) -> None:
    report = helm_python.lint(root / "helm", case(root, name), strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("version", KUBERNETES)
def test_what_is_rendered_is_strictly_valid(chart: Any, root: Path, name: str, version: str) -> None:
    objects = render(chart, case(root, name))
    assert len(objects) >= 5
    for (kind, _), item in objects.items():
        # The operator's own kinds; their schemas are not Kubernetes'.
        if kind not in ("ServiceMonitor", "PrometheusRule"):
            kubernetes_validate.validate(item, version, strict=True)


def test_the_validator_does_reject() -> None:
    bad = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"portz": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(bad, KUBERNETES[0], strict=True)


def test_three_deployments_each_behind_its_service(minimal: Objects) -> None:
    assert {key for key in minimal if key[0] in {"Deployment", "Service"}} == {
        (kind, part) for kind in ("Deployment", "Service") for part in ("gateway", "policy", "scorer")
    }
    for component, port in {"gateway": 8000, "policy": 8001, "scorer": 8002}.items():
        deployment, service = minimal["Deployment", component], minimal["Service", component]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
        assert labels["app.kubernetes.io/component"] == component
        assert service["spec"]["ports"] == [{"name": "http", "port": port, "targetPort": "http"}]
        assert container(minimal, component)["ports"] == [{"name": "http", "containerPort": port}]


@pytest.mark.parametrize(
    ("component", "live", "ready"),
    [("gateway", "/livez", "/readyz"), ("policy", "/health", "/health"), ("scorer", "/livez", "/readyz")],
)
def test_probes(minimal: Objects, component: str, live: str, ready: str) -> None:
    parts = container(minimal, component)
    paths = {kind: parts[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {
        "startup": {"path": live, "port": "http"},
        "liveness": {"path": live, "port": "http"},
        "readiness": {"path": ready, "port": "http"},
    }


def test_starting_gets_the_time_that_values_give(minimal: Objects) -> None:
    for component, seconds in {"policy": 1800, "scorer": 600}.items():
        probe = container(minimal, component)["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == seconds
        assert minimal["Deployment", component]["spec"]["progressDeadlineSeconds"] == seconds + 60


def test_policy_and_scorer_have_a_gpu_each_and_the_gateway_none(minimal: Objects) -> None:
    limits = {name: container(minimal, name)["resources"]["limits"] for name in ("gateway", "policy", "scorer")}
    gpus = {name: limit.get("nvidia.com/gpu") for name, limit in limits.items()}
    assert gpus == {"gateway": None, "policy": "1", "scorer": "1"}
    assert container(minimal, "scorer")["image"].startswith("winnow-scorer-cuda:")
    assert environment(minimal, "scorer")["WINNOW_SCORER_DEVICE"] == "cuda"
    # A new pod cannot wait for the GPU that the old one holds.
    assert minimal["Deployment", "scorer"]["spec"]["strategy"] == {
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}
    }


def test_more_gpus_are_tensor_parallel(everything: Objects) -> None:
    parts = container(everything, "policy")
    assert parts["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "--tensor-parallel-size=2" in parts["args"]


def test_a_cpu_scorer_asks_for_no_gpu(chart: Any, root: Path) -> None:
    objects = render(chart, case(root, "own-policy-cpu"))
    parts = container(objects, "scorer")
    assert parts["resources"]["limits"] == {"memory": "8Gi"}
    assert parts["image"].startswith("winnow-scorer-cpu:")
    assert environment(objects, "scorer")["WINNOW_SCORER_DEVICE"] == "cpu"
    assert "tolerations" not in pod(objects, "scorer")


def test_a_policy_of_ones_own_is_used_and_not_deployed(chart: Any, root: Path) -> None:
    objects = render(chart, case(root, "own-policy-cpu"))
    assert ("Deployment", "policy") not in objects
    assert ("Service", "policy") not in objects
    assert environment(objects, "gateway")["WINNOW_POLICY_URL"] == "http://vllm.models:8000"


def test_the_gateway_is_told_the_names_of_the_services(minimal: Objects) -> None:
    given = environment(minimal, "gateway")
    policy, scorer = (minimal["Service", part]["metadata"]["name"] for part in ("policy", "scorer"))
    assert given["WINNOW_POLICY_URL"] == f"http://{policy}:8001"
    assert given["WINNOW_SCORER_URL"] == f"http://{scorer}:8002"
    assert f"--served-model-name={given['WINNOW_POLICY_MODEL']}" in container(minimal, "policy")["args"]


def test_the_keys_come_from_the_named_secret_read_only(everything: Objects) -> None:
    volume = next(volume for volume in pod(everything, "gateway")["volumes"] if volume["name"] == "keys")
    assert volume["secret"] == {"secretName": "winnow-keys", "defaultMode": 0o440}
    mount = next(m for m in container(everything, "gateway")["volumeMounts"] if m["name"] == "keys")
    assert mount == {"name": "keys", "mountPath": "/etc/winnow/keys", "readOnly": True}
    assert environment(everything, "gateway")["WINNOW_KEYS_FILE"] == "/etc/winnow/keys/tenants.json"
    assert not [kind for kind, _ in everything if kind == "Secret"], "the chart makes none"


def test_other_secrets_are_references_too(everything: Objects, minimal: Objects) -> None:
    key = {"secretKeyRef": {"name": "policy-key", "key": "api-key"}}
    assert environment(everything, "gateway")["WINNOW_POLICY_API_KEY"] == key
    assert environment(everything, "policy")["VLLM_API_KEY"] == key
    key = {"secretKeyRef": {"name": "scorer-key", "key": "api-key"}}
    assert environment(everything, "gateway")["WINNOW_SCORER_API_KEY"] == key
    assert environment(everything, "scorer")["WINNOW_SCORER_API_KEY"] == key
    where = {"secretKeyRef": {"name": "winnow-store", "key": "url"}}
    assert environment(everything, "gateway")["WINNOW_STORE__URL"] == where
    assert environment(everything, "gateway")["WINNOW_LIMITS_URL"] == {
        "secretKeyRef": {"name": "winnow-limits", "key": "url"}
    }
    # A file in a pod would be gone with it.
    assert environment(minimal, "gateway")["WINNOW_STORE__URL"] == "none"
    token = {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert environment(everything, "policy")["HF_TOKEN"] == environment(everything, "scorer")["HF_TOKEN"] == token
    assert "valueFrom" not in yaml.safe_dump([environment(minimal, c) for c in ("gateway", "policy", "scorer")])


def test_every_variable_of_ours_is_a_setting(everything: Objects) -> None:
    gateway = {f"WINNOW_{name.upper()}" for name in Settings.model_fields} | {"WINNOW_CONFIG"}
    scorer = {f"WINNOW_SCORER_{name.upper()}" for name in ScorerSettings.model_fields}
    given = [name for name in environment(everything, "gateway") if name.startswith("WINNOW_")]
    assert {name.partition("__")[0] for name in given} <= gateway
    assert {name for name in environment(everything, "scorer") if name.startswith("WINNOW_")} <= scorer


def test_the_configuration_is_mounted_and_is_one_that_the_gateway_reads(chart: Any, tmp_path: Path) -> None:
    config = '# "quoted" and {{ braced }}\nprofile = "demo"\n[routes.billing]\nn = 4\n'
    objects = render(chart, with_values(gateway={"config": config}))
    held = objects["ConfigMap", "gateway"]["data"]["winnow.toml"]
    assert held == config
    (tmp_path / "winnow.toml").write_text(held)
    assert load_settings(tmp_path / "winnow.toml").routes["billing"].n == 4
    mount = next(m for m in container(objects, "gateway")["volumeMounts"] if m["name"] == "config")
    assert environment(objects, "gateway")["WINNOW_CONFIG"] == f"{mount['mountPath']}/winnow.toml"


def test_a_changed_configuration_restarts_the_gateway(chart: Any, minimal: Objects) -> None:
    def checksum(objects: Objects) -> str:
        return str(objects["Deployment", "gateway"]["spec"]["template"]["metadata"]["annotations"])

    assert checksum(render(chart, with_values(gateway={"config": "port = 8000\n"}))) != checksum(minimal)


def test_images_are_pinned(minimal: Objects, everything: Objects, project: dict[str, Any]) -> None:
    version = project["version"]
    assert container(minimal, "gateway")["image"] == f"winnow-gateway:{version}"
    assert container(minimal, "scorer")["image"] == f"winnow-scorer-cuda:{version}"
    (vllm,) = project["optional-dependencies"]["policy-gpu"]
    assert container(minimal, "policy")["image"] == f"vllm/vllm-openai:v{vllm.removeprefix('vllm==')}"
    digest = re.fullmatch(
        r"registry\.example/winnow-gateway@sha256:[0-9a-f]{64}", container(everything, "gateway")["image"]
    )
    assert digest is not None


def test_the_chart_has_the_projects_version(chart: Any, project: dict[str, Any]) -> None:
    assert chart.metadata["appVersion"] == project["version"]


@pytest.mark.parametrize("component", ["gateway", "policy", "scorer"])
def test_pods_are_restricted(minimal: Objects, component: str) -> None:
    parts, spec = container(minimal, component), pod(minimal, component)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001, "the images' user"
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "or WINNOW_SCORER_PORT would be tcp://..."
    assert parts["securityContext"]["allowPrivilegeEscalation"] is False
    assert parts["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert parts["securityContext"].get("readOnlyRootFilesystem", False) is (component != "policy")
    assert set(parts["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in parts["resources"]["limits"]
    mounted = {mount["name"] for mount in parts["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_only_the_gateway_and_who_is_named_reach_policy_and_scorer(minimal: Objects, everything: Objects) -> None:
    for component, port in {"policy": 8001, "scorer": 8002}.items():
        spec = minimal["NetworkPolicy", component]["spec"]
        assert spec["podSelector"] == minimal["Deployment", component]["spec"]["selector"]
        gateway = {"podSelector": minimal["Deployment", "gateway"]["spec"]["selector"]}
        assert spec["ingress"] == [{"from": [gateway], "ports": [{"port": port, "protocol": "TCP"}]}]
        (rule,) = everything["NetworkPolicy", component]["spec"]["ingress"]
        assert len(rule["from"]) == (3 if component == "policy" else 2), "audits ask the policy"
    assert ("NetworkPolicy", "gateway") not in minimal


def test_a_disruption_budget_only_where_one_can_be_spared(minimal: Objects, everything: Objects) -> None:
    assert not [key for key in minimal if key[0] == "PodDisruptionBudget"]
    for component in ("gateway", "policy", "scorer"):
        spec = everything["PodDisruptionBudget", component]["spec"]
        assert spec["maxUnavailable"] == 1
        assert spec["selector"] == everything["Deployment", component]["spec"]["selector"]


def test_the_service_monitor_selects_all_three(everything: Objects, minimal: Objects) -> None:
    monitor = everything["ServiceMonitor", "metrics"]
    assert monitor["spec"]["endpoints"] == [{"port": "http", "path": "/metrics", "interval": "30s"}]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    selected = [key for key, item in everything.items() if wanted <= item["metadata"]["labels"].items()]
    assert {component for kind, component in selected if kind == "Service"} == {"gateway", "policy", "scorer"}
    assert ("ServiceMonitor", "metrics") not in minimal


def test_the_alerts_become_a_rule_of_the_operator(everything: Objects, minimal: Objects, root: Path) -> None:
    rule = everything["PrometheusRule", "alerts"]
    assert rule["spec"] == yaml.safe_load((root / "helm" / "alerts.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert ("PrometheusRule", "alerts") not in minimal


def test_jobs_run_our_commands_on_the_store(everything: Objects, minimal: Objects) -> None:
    from typer.main import get_command

    from service.cli import load
    from service.store.cli import store_app

    assert not [key for key in minimal if key[0] == "CronJob"]
    commands = {}
    for component, schedule in (("export", "15 1 * * *"), ("audit", "0 6 * * 1")):
        spec = everything["CronJob", component]["spec"]
        assert (spec["schedule"], spec["timeZone"]) == (schedule, "Etc/UTC")
        template = spec["jobTemplate"]["spec"]["template"]
        (only,) = template["spec"]["containers"]
        commands[component] = only["command"]
        given = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in only["env"]}
        assert given["WINNOW_STORE__URL"] == {"secretKeyRef": {"name": "winnow-store", "key": "url"}}
        assert given["WINNOW_POLICY_URL"] == "http://demo-rerank-policy:8001"
        assert given["WINNOW_POLICY_API_KEY"] == {"secretKeyRef": {"name": "policy-key", "key": "api-key"}}
        assert {name.partition("__")[0].removeprefix("WINNOW_").lower() for name in given} <= {
            *Settings.model_fields,
            "config",
        }
        assert only["image"] == container(everything, "gateway")["image"]
        assert {mount["name"] for mount in only["volumeMounts"]} == {v["name"] for v in template["spec"]["volumes"]}
    assert commands == {
        "export": ["winnow", "store", "export", "/exports"],
        "audit": ["winnow", "audit", "draw", "--size", "200"],
    }
    assert "export" in get_command(store_app).commands  # type: ignore[attr-defined]
    draw = load("audit").commands["draw"]
    assert "--size" in [option for parameter in draw.params for option in parameter.opts]


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ({"export": {"schedule": "15 1 * * *"}}, "jobs.export: name a volume"),
        ({"audit": {"schedule": "0 6 * * 1"}}, "jobs.audit: name the store"),
    ],
)
def test_a_job_without_what_it_needs_says_so(chart: Any, jobs: dict[str, Any], said: str) -> None:
    store = {"existingSecret": "s"} if "export" in jobs else {}
    with pytest.raises(Exception, match=said):
        render(chart, with_values(jobs=jobs, store=store))


def test_caches_are_bounded_scratch_or_a_claim(minimal: Objects, everything: Objects) -> None:
    def cache(objects: Objects, component: str) -> dict[str, Any]:
        return next(volume for volume in pod(objects, component)["volumes"] if volume["name"] == "cache")

    assert cache(minimal, "policy")["emptyDir"] == {"sizeLimit": "50Gi"}
    assert cache(everything, "policy")["persistentVolumeClaim"] == {"claimName": "weights"}
    assert cache(everything, "scorer")["persistentVolumeClaim"] == {"claimName": "scorer-cache"}


def test_the_scorer_finds_its_registry(minimal: Objects, everything: Objects) -> None:
    assert container(minimal, "scorer")["args"][-2:] == ["--model", "champion"]
    assert "WINNOW_SCORER_REGISTRY" not in environment(minimal, "scorer")
    mount = next(m for m in container(everything, "scorer")["volumeMounts"] if m["name"] == "registry")
    assert mount == {"name": "registry", "mountPath": "/models", "readOnly": True}
    assert environment(everything, "scorer")["WINNOW_SCORER_REGISTRY"] == mount["mountPath"]
    assert container(everything, "scorer")["args"][-1] == "winnow-orm@3"


@pytest.mark.parametrize(("values", "before_stop", "drain"), [({}, 5, 60), ({"drainSeconds": 120}, 5, 120)])
def test_one_number_says_how_long_a_stopping_pod_may_take(
    chart: Any, values: dict[str, int], before_stop: int, drain: int
) -> None:
    objects = render(chart, with_values(gateway=values))
    assert environment(objects, "gateway")["WINNOW_DRAIN_SECONDS"] == str(drain)
    assert f"--shutdown-timeout={drain}" in container(objects, "policy")["args"]
    for component in ("gateway", "policy"):
        assert container(objects, component)["lifecycle"] == {"preStop": {"sleep": {"seconds": before_stop}}}
        assert pod(objects, component)["terminationGracePeriodSeconds"] == before_stop + drain + 15


def test_further_variables_reach_the_gateway_and_none_is_set_twice(everything: Objects, chart: Any) -> None:
    given = environment(everything, "gateway")
    assert given["WINNOW_KEEPALIVE_SECONDS"] == "2.5"
    assert given["WINNOW_STORE__WEBHOOK_SECRET"] == {"secretKeyRef": {"name": "webhook", "key": "secret"}}
    own = [name for name in given if name not in {"WINNOW_KEEPALIVE_SECONDS", "WINNOW_STORE__WEBHOOK_SECRET"}]
    values = {"store": {"existingSecret": "s"}, "policy": {"apiKey": {"existingSecret": "p"}}}
    values |= {"scorer": {"apiKey": {"existingSecret": "c"}}, "limits": {"existingSecret": "l"}}
    assert "WINNOW_STORE__URL" in own
    for name in own:
        with pytest.raises(helm_python.HelmError, match=f"{name} is set by this chart"):
            render(chart, with_values(**values, gateway={"extraEnv": [{"name": name, "value": "x"}]}))


def test_limits_and_origins_can_be_set_in_the_file(chart: Any, tmp_path: Path) -> None:
    config = 'cors_origins = ["https://app.example"]\nrequests_per_minute = 30\n'
    (tmp_path / "winnow.toml").write_text(
        render(chart, with_values(gateway={"config": config}))["ConfigMap", "gateway"]["data"]["winnow.toml"]
    )
    settings = load_settings(tmp_path / "winnow.toml")
    assert (settings.cors_origins, settings.requests_per_minute) == (("https://app.example",), 30)


def test_large_numbers_stay_integers(chart: Any) -> None:
    objects = render(chart, with_values(policy={"maxModelLen": 1_048_576}))
    assert "--max-model-len=1048576" in container(objects, "policy")["args"]


def test_the_notes_name_the_secret_and_the_service(chart: Any) -> None:
    notes = chart.render(with_values(), name="demo", namespace="prod")["winnow/templates/NOTES.txt"]
    assert "create secret generic winnow-keys --from-file=keys.json" in notes
    assert "service/demo-winnow-gateway" in notes
    assert "There is no store" in notes
    notes = chart.render(with_values(store={"existingSecret": "s"}), name="demo")["winnow/templates/NOTES.txt"]
    assert "There is no store" not in notes


def test_without_a_keys_secret_the_message_says_what_to_do(chart: Any) -> None:
    with pytest.raises(helm_python.HelmRenderError, match="name a secret that holds a keys file"):
        chart.render({}, name="demo")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("policy.gpus", 0),
        ("policy.gpus", "one"),
        ("policy.url", "vllm:8000"),
        ("policy.image.tag", "latest"),
        ("policy.maxModelLen", 12),
        ("policy.rollingUpdate", {"maxSurge": 0, "maxUnavailable": 0}),
        ("policy.resources.limits", {"nvidia.com/gpu": 8}),
        ("policy.extraArgs", "--enable-auto-tool-choice"),
        ("gateway.replicas", 0),
        ("gateway.replicas", 1.5),
        ("gateway.config", {"port": 8000}),
        ("gateway.service.type", "ExternalName"),
        ("gateway.service.port", 70_000),
        ("gateway.image.digest", "sha256:abc"),
        ("gateway.resources.limits", {"memory": "lots"}),
        ("gateway.drainSeconds", -1),
        ("gateway.preStopSeconds", 0),
        ("gateway.extraEnv", [{"name": "lower", "value": "x"}]),
        ("gateway.extraEnv", [{"name": "WINNOW_X"}]),
        ("gateway.extraEnv", [{"name": "WINNOW_X", "value": "x", "valueFrom": {"secretKeyRef": {}}}]),
        ("scorer.device", "tpu"),
        ("scorer.model", ""),
        ("scorer.startupSeconds", 0),
        ("keys.existingSecret", "Not_A_Name"),
        ("keys.file", "../keys.json"),
        ("networkPolicy.enabled", "yes"),
        ("serviceMonitor.interval", "often"),
        ("gateway.replica", 2),
        ("gatway", {}),
    ],
)
def test_bad_values_are_refused(chart: Any, path: str, value: Any) -> None:
    values = with_values()
    *parents, leaf = path.split(".")
    inner = values
    for parent in parents:
        inner = inner.setdefault(parent, {})
    chart.validate_schema(values)
    inner[leaf] = value
    with pytest.raises(helm_python.HelmValuesError, match=leaf):
        chart.validate_schema(values)
    with pytest.raises(helm_python.HelmError, match=leaf):
        chart.render(values, name="demo")


def test_the_schema_knows_each_default_and_nothing_more(chart: Any) -> None:
    schema = chart.schema

    def compare(values: dict[str, Any], described: dict[str, Any], where: str) -> None:
        if "$ref" in described:
            described = schema["$defs"][described["$ref"].rpartition("/")[2]]
        properties = described.get("properties")
        if properties is None:
            return
        assert described["additionalProperties"] is False, where
        assert set(values) == set(properties) - {"global"}, where
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, properties[name], f"{where}.{name}")

    compare(copy.deepcopy(chart.values), schema, "values")
