"""Templates of pages: everything in them is escaped but what is marked as markup, style and script known by hash."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petl_bench.report.labels import MISSING, one_line

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **context: Any) -> str:
    """A page of a template."""
    return _environment_of_templates().get_template(template).render(missing=MISSING, **_assets(), **context)


@functools.cache
def _environment_of_templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Applied to every expression: control characters and direction marks of a name end here.
        finalize=lambda value: value if hasattr(value, "__html__") else one_line(value),
    )


@functools.cache
def _assets() -> dict[str, Any]:
    """Style and script with the hashes by which the pages' policy knows them."""
    css, js = ((TEMPLATES / name).read_text(encoding="utf-8").strip() for name in ("page.css", "page.js"))
    return {
        "css": markup(css),
        "js": markup(js),
        "css_hash": _source_hash(css),
        "js_hash": _source_hash(js),
    }


def _source_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def markup(text: str) -> Markup:
    """HTML as it is meant."""
    from markupsafe import Markup

    return Markup(text)
