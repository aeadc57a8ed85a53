"""Plugins that take an accepted message and keep it, or pass it on."""
