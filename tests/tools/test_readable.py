"""HTML to lines, and the choice of lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirothinker_jax.tools.readable import Page, read_html, read_main_text
from mirothinker_jax.tools.relevance import best_lines

URL = "http://a.test/dir/page"


def lines(body):
    return list(read_html(f"<html><head><title>T</title></head><body>{body}</body></html>", URL).lines)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<p>one</p><p>two <b>bold</b>\n text</p>", ["one", "two bold text"]),
        ("a<br>b<hr>c", ["a", "b", "c"]),
        ("<a href='http://b.test/x'>X</a>", ["[X](http://b.test/x)"]),
        ("<a href='../up?q=1#f'>X</a>", ["[X](http://a.test/up?q=1#f)"]),
        ("<a>X</a> <a href='#top'>Y</a> <a href='javascript:z()'>Z</a>", ["X Y Z"]),
        ("<a href='http://[bad'>X</a>", ["[X](http://[bad)"]),
        ("<a href='//[bad'>X</a>", ["X"]),
        ("<table><tr><th>k</th><td>v</td></tr></table>", ["k: v"]),
        ("<table><tr><td>a</td><td>b</td><td>c</td></tr><tr><td>d</td></tr></table>", ["a | b | c", "d"]),
        ("<ul><li>x: <a href='/y'>y</a></li></ul>", ["x: [y](http://a.test/y)"]),
        ("<nav>menu</nav><header>head</header><footer>foot</footer><aside>ad</aside>text", ["head", "text"]),
        ("<script>s</script><style>t</style><noscript>n</noscript><!-- c -->x<template>t</template>", ["x"]),
        ("<form><button>Buy</button></form>&lt;b&gt; &amp; &nbsp;z", ["<b> & z"]),
        ("", []),
    ],
)
def test_lines(body, expected):
    assert lines(body) == expected


def test_titles():
    assert read_html("<title> A\n B </title><p>x</p>", URL).title == "A B"
    assert read_html("<p>x</p><p>y</p>", URL).title == "x"
    assert read_html("", URL).title == URL


def test_deep_nesting():
    text = "\n".join(lines("<div>" * 20_000 + "deep" + "</div>" * 20_000))
    assert text in ("deep", "")  # the parser may give up on the depth, Python must not


@given(st.text(max_size=200))
def test_any_text_can_be_read(text):
    page = read_html(text, URL)
    assert page.title and all(line and "\n" not in line for line in page.lines)


PAGE = [
    "name: North Bay Airport",
    "city: North Bay",
    "elevation: 1215",
    "north: [YKD](http://a.test/YKD)",
    "The airport lies north of the city and was built in 1938.",
]


@pytest.mark.parametrize(
    ("wanted", "count", "expected"),
    [
        ("north", 1, [3]),
        ("NORTH", 2, [3, 0]),
        ("city", 2, [1, 4]),
        ("what is its elevation?", 5, [2]),
        ("elevations in feet", 5, [2]),
        ("when was it built", 1, [4]),
        ("YKD", 1, [3]),
        ("test", 5, []),  # stands in an address only
        ("colour", 5, []),
        ("", 5, []),
        ("the", 5, [4]),  # a question of nothing but empty words is taken at its word
    ],
)
def test_best_lines(wanted, count, expected):
    assert best_lines(PAGE, wanted, count) == [PAGE[i] for i in expected]


def test_the_main_text_is_free_of_boilerplate_and_its_links_are_absolute():
    """What rules cannot tell from content, trafilatura can; a page without any text has only its title."""
    story = (
        "<p>The airport of the valley lies at 1,338 metres and is served by many airlines of the region.</p>"
        * 3
    )
    page = (
        "<html><head><title>KTM</title></head><body><div class='menu'><a href='/a'>Home</a> <a href='/b'>About</a>"
        f"</div><article><h1>KTM</h1>{story}<p>To the north lies <a href='/LUA'>LUA</a>, higher still.</p></article>"
        "<div class='footer'>Cookies Imprint</div></body></html>"
    )
    by_rules, main = read_html(page, URL), read_main_text(page, URL)
    assert by_rules.title == main.title == "KTM"
    assert any("Home" in line for line in by_rules.lines) and not any("Home" in line for line in main.lines)
    assert "To the north lies [LUA](http://a.test/LUA), higher still." in main.lines
    assert read_main_text("<html><head><title>T</title></head><body></body></html>", URL) == Page("T", ())
