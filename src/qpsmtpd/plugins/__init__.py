"""The bundled plugins: one file each, named as in `config/plugins`."""
