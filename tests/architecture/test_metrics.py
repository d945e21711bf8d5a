"""Metrics: one catalogue, unique names, labels with few values, and no service that exports metrics of another."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from tools import metrics

ROOT = Path(__file__).parents[2]
SERVICES = [module.split(".")[1] for module in metrics.modules() if module != metrics.SHARED]
FORBIDDEN_LABELS = {"client", "user", "reviewer", "subject", "case", "item", "policy_set"}
_REGISTERED = """
import services.{service}.app
from prometheus_client import REGISTRY
print(*(family.name for family in REGISTRY.collect() if family.name.startswith("piepowder_")))
"""


def test_every_service_has_a_metrics_module() -> None:
    assert sorted(path.parent.name for path in ROOT.glob("services/*/__main__.py")) == SERVICES


def test_metrics_are_defined_in_the_catalogues_modules_only() -> None:
    defining = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for folder in ("services", "shared", "piepowder", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"= \(?(Counter|Gauge|Histogram|Summary)\(\s*(\"|$)", path.read_text(), re.MULTILINE)
    }
    assert defining == set(metrics.modules())


def test_a_metric_has_a_unique_name_and_no_label_with_unlimited_values() -> None:
    found = [metric for module in metrics.modules() for metric in metrics.catalogue(module)]
    names = [metric.name for metric in found]
    assert len(names) == len(set(names)) > 30
    for metric in found:
        assert metric.name.startswith("piepowder_")
        assert not FORBIDDEN_LABELS & {*metric.labels}, metric.name


@pytest.mark.parametrize("module", metrics.modules())
def test_every_metric_is_used_by_the_code_of_its_service(module: str) -> None:
    """A search for `metrics.<NAME>`; it finds unused metrics, not wrong calls."""
    folders = ("services", "shared") if module == metrics.SHARED else (f"services/{module.split('.')[1]}",)
    code = "\n".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    defined = [
        name for name, value in vars(importlib.import_module(module)).items() if isinstance(value, MetricWrapperBase)
    ]
    assert defined
    assert [name for name in defined if not re.search(rf"\bmetrics\.{name}\b", code)] == []


def test_the_page_of_metrics_is_up_to_date() -> None:
    page = ROOT / "docs" / "metrics.md"
    command = ".venv/bin/python -m tools.metrics > docs/metrics.md"
    assert page.read_text(encoding="utf-8") == metrics.render(), f"run: {command}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_exports_the_shared_metrics_and_its_own(service: str) -> None:
    script = [sys.executable, "-c", _REGISTERED.format(service=service)]
    registered = subprocess.run(script, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    expected = [*metrics.catalogue(metrics.SHARED), *metrics.catalogue(f"services.{service}.metrics")]
    assert sorted(registered) == sorted(metric.name.removesuffix("_total") for metric in expected)
