"""One client, from accept to close: the protocol joined with plugins, still without I/O."""
