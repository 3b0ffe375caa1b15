"""The alerts, by Prometheus' own promtool: valid, loud when they should be and silent when not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from service.audits.agreement import ALARM


@pytest.fixture
def alerts(root: Path) -> Path:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool is installed here: apt-get install prometheus")
    return root / "helm" / "alerts.yaml"


def test_promtool_finds_no_fault(alerts: Path) -> None:
    done = subprocess.run(["promtool", "check", "rules", str(alerts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_loud_when_it_should_be(alerts: Path, root: Path, tmp_path: Path) -> None:
    cases = (root / "tests" / "deploy" / "alerts_test.yaml").read_text().replace("ALERTS", str(alerts))
    (tmp_path / "cases.yaml").write_text(cases)
    done = subprocess.run(["promtool", "test", "rules", str(tmp_path / "cases.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    known = {rule["alert"] for group in yaml.safe_load(alerts.read_text())["groups"] for rule in group["rules"]}
    assert known == {case["alertname"] for case in yaml.safe_load(cases)["tests"][0]["alert_rule_test"]}


def test_the_alarm_is_the_one_that_the_report_warns_at(alerts: Path) -> None:
    assert f"winnow_audit_agreement_ratio < {ALARM} " in alerts.read_text()
