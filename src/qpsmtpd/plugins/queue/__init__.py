"""Plugins that take accepted messages: each keeps them or hands them on."""
