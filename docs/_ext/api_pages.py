"""The directive `public` of the API pages: a table of names with their first sentences, then each name's own entry.

    .. public::

       fastsaddle.comm.Gossip
       fastsaddle.comm.Average

Types in signatures lead to the entries, whatever module defines them.
"""

import inspect

from docutils import nodes
from public_names import documented
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.autosummary import Autosummary
from sphinx.util.docutils import SphinxDirective


def kind(obj: object) -> str:
    """Which of autodoc's directives an object has."""
    if inspect.isclass(obj):
        return "autoexception" if issubclass(obj, BaseException) else "autoclass"
    return "autofunction"


class Table(Autosummary):
    """Names as they are written, without their signatures and their modules."""

    def get_items(self, names: list[str]) -> list[tuple[str, str | None, str, str]]:
        found = super().get_items([f"~{name}" for name in names])
        return [(name, None, summary, path) for name, _, summary, path in found]


class Public(SphinxDirective):
    has_content = True

    def run(self) -> list[nodes.Node]:
        objects = documented()
        names = [line.strip() for line in self.content if line.strip()]
        lines = [".. public-table::", "", *(f"   {name}" for name in names), ""]
        for name in names:
            directive = kind(objects[name])
            members = [] if directive == "autofunction" else ["   :members:"]
            lines += [f".. {directive}:: {name}", *members, ""]
        return self.parse_text_to_nodes("\n".join(lines), offset=self.content_offset)


def find_type(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """The entry of a type that is named by the module that defines it, or without one."""
    target = node.get("reftarget", "")
    name = app.config.api_types.get(target)
    if node.get("refdomain") != "py" or name is None:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "class", name, node, content)


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autosummary")
    types = {}
    for name, obj in documented().items():
        if inspect.isclass(obj):
            types |= {f"{obj.__module__}.{obj.__qualname__}": name, obj.__qualname__: name}
    app.add_config_value("api_types", types, "env")
    app.add_directive("public", Public)
    app.add_directive("public-table", Table)
    app.connect("missing-reference", find_type)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
