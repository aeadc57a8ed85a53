"""Plugins that write the log, loaded by `config/logging` before all others."""
