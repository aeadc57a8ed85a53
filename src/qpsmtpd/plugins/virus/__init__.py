"""Plugins that look for viruses."""
