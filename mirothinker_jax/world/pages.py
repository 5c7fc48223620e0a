"""Entities as HTML pages, with the navigation and the footer that real pages have around their content."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mirothinker_jax.world import airports, countries
from mirothinker_jax.world.entity import Entity
from mirothinker_jax.world.facts import World

LICENCES = {
    airports.KIND: "Elevations are in feet. Facts: airportsdata (MIT licence).",
    countries.KIND: "Facts: The World Factbook (public domain).",
}


@cache
def _template() -> Template:
    loader = PackageLoader("mirothinker_jax.world", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")


def render_page(world: World, entity: Entity) -> str:
    """The entity's page; a mirror serves the same. Links always name primary addresses."""
    links = [(relation, world.entities[to]) for relation, to in entity.links.items()]
    return _template().render(entity=entity, links=links, licence=LICENCES[entity.kind])
