"""The gateway over fakes that the service's tests use, for suites and clients that others wrote."""

from tests.service.conftest import demo, empty_store, gateway, script, start_gateway

__all__ = ["demo", "empty_store", "gateway", "script", "start_gateway"]
