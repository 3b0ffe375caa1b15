"""Every setting of the gateway, once, with its description; docs/reference/settings.md is generated from here."""

from service.settings.gateway import Settings, load_settings
from service.settings.policy import PolicySettings, UpstreamSettings
from service.settings.routes import PROFILES, Profile, RouteSettings
from service.settings.store import StoreSettings, state_folder
from service.settings.tenants import TenantLimits, TenantSettings

__all__ = [
    "PROFILES",
    "PolicySettings",
    "Profile",
    "RouteSettings",
    "Settings",
    "StoreSettings",
    "TenantLimits",
    "TenantSettings",
    "UpstreamSettings",
    "load_settings",
    "state_folder",
]
