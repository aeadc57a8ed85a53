"""Lists of plugins that could be asked in place of those of today."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qpsmtpd.config import Config, ConfigError, Line, did_you_mean
from qpsmtpd.loader import name_in, plugin_lines
from qpsmtpd.shadow import SHADOW

__all__ = ["Variant"]

_COMMAND_LINE = Path("--with")


@dataclass(frozen=True, slots=True)
class Variant:
    """How a list of plugins differs from `config/plugins`."""

    without: Sequence[str] = ()
    """Names of plugins to leave out."""
    extra: Sequence[str] = ()
    """Plugins with their arguments. One that is in the list already is replaced where it stands."""
    before: str = ""
    """The plugin before which the others of `extra` are asked; else they come last."""
    shadow: bool = False
    """Whether it begins with `config/plugins.shadow` in place of `config/plugins`."""

    def __str__(self) -> str:
        """What it is, for a heading."""
        words = ["with the shadow list"] if self.shadow else []
        words += [f"without {name}" for name in self.without]
        words += [f"with {line}" for line in self.extra]
        return ", ".join(words)

    def lines(self, settings: Config) -> list[Line]:
        """The list. Raises ConfigError for a plugin that is named, and is not in it."""
        lines = list(plugin_lines(settings, SHADOW if self.shadow else "plugins"))
        if self.shadow and not lines:
            raise ConfigError(f"there is no {SHADOW} in the config directory, or nothing in it")
        for name in self.without:
            _places(lines, name)
            lines = [line for line in lines if not _is(line, name)]
        added: list[Line] = []
        for number, text in enumerate(self.extra, 1):
            line = Line(text, _COMMAND_LINE, number)
            name = text.split()[0]
            places = [place for place, other in enumerate(lines) if _is(other, name)]
            if places:
                lines[places[0]] = line
            else:
                added.append(line)
        place = _places(lines, self.before)[0] if self.before else len(lines)
        return [*lines[:place], *added, *lines[place:]]


def _is(line: Line, name: str) -> bool:
    """Whether it is the line of this plugin: by its whole name, or by that without `:N`."""
    return name in (line.text.split()[0], name_in(line.text))


def _places(lines: Sequence[Line], name: str) -> list[int]:
    places = [place for place, line in enumerate(lines) if _is(line, name)]
    if not places:
        known = [name_in(line.text) for line in lines]
        raise ConfigError(f"there is no plugin {name!r} in the list{did_you_mean(name, known)}")
    return places
