"""Plugins that find out who a client is."""
