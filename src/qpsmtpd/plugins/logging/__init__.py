"""Plugins that write the log, for `config/logging`."""
