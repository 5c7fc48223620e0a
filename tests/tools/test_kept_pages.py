"""Short pages are kept, as long as they are short when they are read."""

from mirothinker_jax.tools import browse
from mirothinker_jax.tools.documents import Source, read_page


def test_a_page_of_far_more_characters_than_bytes_is_not_kept():
    links = "".join(f"<p><a href=p>{i}</a></p>" for i in range(300))
    large = f"<base href='http://a.test/{'x' * 100}/'>{links}".encode()
    for body, kept in ((b"<p>one line</p>", 1), (large, 0)):
        source = Source(body, "text/html", "http://a.test/kept-pages")
        before = browse._read_small.cache_info().currsize
        first, again = browse._read_at_once(source), browse._read_at_once(source)
        assert first == again == read_page(source, 1.0) and first.lines
        assert (first is again) == bool(kept)
        assert browse._read_small.cache_info().currsize - before == kept
