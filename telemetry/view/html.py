"""The HTML page around the elements, with a policy that forbids requests to other machines."""

from __future__ import annotations

from typing import Any

from bokeh.core.templates import get_env

_TEMPLATE = """{% extends base %}
{% block preamble %}
    <meta http-equiv="Content-Security-Policy" content="POLICY">
    <link rel="icon" href="data:,">
    <meta name="referrer" content="no-referrer">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <style>body { background: #fff; }</style>
{% endblock %}
"""
_POLICY = "default-src HOST 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'none'; form-action 'none'"


def page_template(*, own_host: bool) -> Any:
    """Return the Jinja template of a page. The browser then refuses to load anything from other hosts.

    Args:
        own_host: whether the page may load from the server it comes from, as the live page does.
    """
    policy = _POLICY.replace("HOST ", "'self' " if own_host else "")
    return get_env().from_string(_TEMPLATE.replace("POLICY", policy))
