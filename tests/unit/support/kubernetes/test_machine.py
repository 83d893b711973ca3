"""What is asked of a machine before anything is made on it."""

import os

import pytest
from tests.support.kubernetes import machine

from strongroom.base.errors import ConfigurationError

NETWORKS = ("10.200.0.0/24", "10.244.0.0/16")


@pytest.mark.parametrize("target", ["default", "10.0.0.0/8", "10.200.1.0/24", "10.243.0.0/16", "192.168.1.7"])
def test_other_networks_and_larger_ones_are_no_obstacle(target: str) -> None:
    machine.demand_free(NETWORKS, [{"dst": target, "dev": "eth0"}])


@pytest.mark.parametrize("target", ["10.200.0.0/24", "10.200.0.9", "10.244.3.0/24"])
def test_a_network_in_use_is_refused(target: str) -> None:
    with pytest.raises(ConfigurationError, match=f"is in use on this machine: {target} by flannel.1") as refused:
        machine.demand_free(NETWORKS, [{"dst": target, "dev": "flannel.1"}])
    assert "KUBECONFIG" in refused.value.action


def test_without_root_no_cluster_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert machine.missing() == "a cluster in namespaces of its own needs root"


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "PROGRAMS", ("python3", "no-such-program"))
    assert machine.missing() == "not installed: no-such-program (run `make system`)"
