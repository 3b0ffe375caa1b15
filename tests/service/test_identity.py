"""Roles, and whose answers a key sees."""

from __future__ import annotations

import pytest

from service.errors import Forbidden
from service.identity import Identity


def test_roles_are_required_by_name() -> None:
    Identity("acme", "admin").require("operator", "admin")
    with pytest.raises(Forbidden, match="operator or admin"):
        Identity("acme", "client").require("operator", "admin")


def test_a_key_sees_its_own_tenant_unless_it_names_others() -> None:
    assert Identity("acme", "operator").visible == frozenset(("acme",))
    assert Identity("acme", "operator", tenants=()).visible == frozenset()
    assert Identity("anna", "operator", tenants=("acme", "other")).visible == frozenset(("acme", "other"))
    assert Identity("anna", "admin", tenants=("*",)).visible is None


def test_what_concerns_every_tenant_needs_a_key_that_sees_them_all() -> None:
    Identity("root", "admin", tenants=("*",)).require_every_tenant()
    for tenants in (None, ("acme",)):
        with pytest.raises(Forbidden, match="every tenant"):
            Identity("root", "admin", tenants=tenants).require_every_tenant()


def test_the_log_names_the_person() -> None:
    assert Identity("acme", "operator", "anna").actor == "anna"
    assert Identity("acme", "operator").actor == "acme"
