"""A sentence says what its figures show, and says so where they show nothing."""

import pytest

from mirothinker_jax.evals import study_findings as say


def f(mean, half=0.05, **more):
    return {
        "mean": mean,
        "low": max(0, mean - half),
        "high": min(1, mean + half),
        "n": 100,
        "tokens": 100.0,
        "calls": 3.0,
    } | more


def against(mean, p):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "p_holm": p}


@pytest.mark.parametrize(
    ("after", "told", "words"),
    [
        (0.9, against(-0.2, 0.01), ["more interaction helps", "it is 20 points worse at 8 calls"]),
        (
            0.12,
            against(0.3, 0.2),
            ["no gain from more interaction is shown", "makes no difference that could be told"],
        ),
    ],
)
def test_scaling(after, told, words):
    text = say.scaling(
        {"silent": {"1": f(0.1), "8": f(after)}, "announced_minus_silent": {"1": against(0, 1), "8": told}}
    )
    assert text.startswith("With 1 call allowed 10% of the answers are right, with 8") and all(
        w in text for w in words
    )


@pytest.mark.parametrize(
    ("after", "more", "p", "words"),
    [
        (0.9, 5.0, 0.001, "accuracy rises, and calls rise. "),
        (0.9, -2.0, 0.001, "accuracy rises, and calls fall. "),
        (0.22, 5.0, 0.3, "accuracy does not rise beyond chance, and calls change no more than by chance. "),
    ],
)
def test_training(after, more, p, words):
    stages = {"sft": f(0.2), "dpo": f(0.3), "grpo": f(after, calls=3.0 + more)}
    stages = {s: figures | {"calls_on_way": 2.0} for s, figures in stages.items()}
    change = {"mean": more, "p_holm": p}
    deep = {
        "links": [4, 6],
        "stages": stages,
        "more_calls": change,
        "more_calls_on_way": {"mean": 0.0, "p_holm": 1.0},
    }
    text = say.training({"deeper_half": deep})
    assert text.startswith("On questions of 4 to 6 links, 20% are right after SFT with 3.0 calls each, and ")
    assert f"% after GRPO with {3 + more:.1f}: {words}Of them, 2.0 and 2.0 ask for " in text
    assert text.endswith("these change no more than by chance.")
    assert "fewer than two stages" in say.training({"deeper_half": {}})


@pytest.mark.parametrize(
    ("deep", "words"), [(0.9, "cannot be bought back by width"), (0.52, "is not clearly better")]
)
def test_matched_compute(deep, words):
    shallow = {"3": {"1": f(0.3, tokens=60.0), "2": f(0.5, tokens=120.0), "3": f(0.6, tokens=180.0)}}
    text = say.matched_compute({"depth": {"2": f(0.1), "14": f(deep)}, "shallow": shallow})
    assert words in text and "the majority of 2 attempts of at most 3 calls (120 tokens) 50%" in text


@pytest.mark.parametrize(
    ("p", "mean", "words"),
    [
        (0.001, 0.4, "; the deep agent is better beyond chance."),
        (0.3, 0.4, "; except with few calls, the deep agent is"),
        (0.001, -0.4, "; except with few calls, the deep agent is"),  # significantly worse
    ],
)
def test_arms(p, mean, words):
    figures = {arm: f(0.1, deep_minus_this=against(0.5, 0.001)) for arm in ("isolated", "pages", "shuffled")}
    figures |= {"react": f(0.4, deep_minus_this=against(mean, p)), "deep": f(0.8)}
    assert words in say.arms(figures)


@pytest.mark.parametrize(
    ("isolated", "words"),
    [
        ([f(0.6), f(0.9)], "So feedback keeps drift down in every band."),
        ([f(0.6), f(0.21)], "So this does not hold beyond chance in every band."),
        ([f(0.6), None], "steps 6–20 were reached by none. So this does not hold"),
    ],
)
def test_drift(isolated, words):
    bands = ("1–5", "6–20")
    by_band = {
        "feedback": dict(zip(bands, [f(0.01), f(0.2)], strict=True)),
        "isolated": dict(zip(bands, isolated, strict=True)),
    }
    done = {"feedback": {"2": 4.0, "6": 7.6, "8": 2.5, "64": 0.1}}
    text = say.drift({"by_band": by_band, "steps_done": done})
    assert text.endswith(
        "Walks of up to 6 links are nearly all walked to their end; of 8 links 2.5 of 10 steps are done on average."
    )
    assert "steps 1–5: 1% against 60%" in text and words in text


def test_recovery():
    figures = {
        "dead": {"1": {"with": f(0.8), "without": f(0.9), "with_minus_without": against(-0.1, 0.4)}},
        "contradiction": {
            "1": {"with": f(0.0), "without": f(0.9), "with_minus_without": against(-0.9, 0.001)}
        },
    }
    assert say.recovery(figures) == (
        "Of the same episodes, right are after a dead link (404) 80% instead of 90% (maybe chance); after a page with "
        "a false line 0% instead of 90%."
    )
    assert "No episode came so far" in say.recovery({})


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (
            0.0,
            "does not walk 16 and more: on average it does at most 3.5 with keep-all, 2.0 with keep-5 steps right",
        ),
        (0.9, "Long walks are answered in up to 90%; most steps right on average: 3.5 with keep-all"),
    ],
)
def test_memory(right, words):
    figures = {
        "keep-all": {
            "16": f(right, steps_done=3.5, steps_needed=18),
            "64": f(0.0, steps_done=1.0, steps_needed=66),
        },
        "keep-5": {"16": f(0.0, steps_done=2.0, steps_needed=18)},
    }
    assert words in say.memory(figures, 6)
