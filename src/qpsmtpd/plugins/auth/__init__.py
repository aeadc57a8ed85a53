"""Plugins that judge the credentials of AUTH (RFC 4954)."""
