"""Pages from templates: all text escaped, control characters made visible, no script and no outside file."""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from grao.reports.words import level, number, percent, typeset

_CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_UNPRINTABLE = re.compile("[\x80-\x9f\ud800-\udfff\ufffe\uffff]")


def render_template(template: str, /, **values: Any) -> str:
    """A template of this package as HTML. Equal values give equal pages, byte for byte."""
    environment = Environment(
        loader=PackageLoader("grao", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters.update(typeset=typeset, number=number, percent=percent, level=level)
    return environment.get_template(template).render(**values)


def _printable(value: Any) -> Any:
    """Text without characters that HTML forbids: controls become their pictures, the rest a replacement mark."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value.replace("\r\n", "\n").translate(_CONTROLS))
