"""The gateway over fakes that the service's tests use, for suites and clients that others wrote."""

from tests.service.conftest import demo, gateway, script, start_gateway

__all__ = ["demo", "gateway", "script", "start_gateway"]
