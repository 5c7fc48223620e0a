"""A thing that the embedded web has a page about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Entity:
    """`facts` are attribute → value as the page shows it; `links` are relation → id of another entity.

    >>> Entity("KTM", "airports", "KTM", ("Tribhuvan International Airport",),
    ...        {"city": "Kathmandu", "elevation": "4390"}, {"west": "PKR"}).url
    'http://airports.test/KTM'
    """

    id: str  # safe in a URL; unique in the whole world
    kind: str
    title: str
    aliases: tuple[str, ...]
    facts: Mapping[str, str]
    links: Mapping[str, str]

    @property
    def url(self) -> str:
        """Address of its page on the embedded web."""
        return f"http://{self.kind}.test/{self.id}"

    @property
    def mirror_url(self) -> str:
        """The same page elsewhere, for when the first address is dead."""
        return f"http://mirror.test/{self.id}"
