"""The page's verdicts follow from its figures."""

from benchmarks._papers_page import ablation, competitors, line, reconstruction, verdict

COSTS = {
    "GNRI, paper, 2": 4,
    "GNRI, released code, 2": 2,
    "exact DPM inversion, 50": 50,
    "ReNoise, averaged, 9": 9,
    "DDIM or Euler": 1,
}


def rows(*decibels: float) -> dict[str, dict[str, float]]:
    return {label: {"picture": db, "cost": cost} for (label, cost), db in zip(COSTS.items(), decibels, strict=True)}


def test_a_claim_holds_if_all_its_parts_do() -> None:
    assert verdict([True, True]) == "**held**"
    assert verdict([True, False]) == "**held in part**"
    assert verdict([False, False]) == "**failed**"
    assert line("a claim", "1", "2", [])[-1] == "not measured"


def test_the_better_form_of_gnri_is_compared_with_the_others() -> None:
    part = {"bound": {"picture": 36.0}, "date": "today"}
    found = {
        "reconstruction": part
        | {
            "turbo-ve, ancestral": {"4": rows(20, 30, 25, 24, 12)},
            "turbo-flow": {"4": rows(20, 21, 25, 24, 12)},
        }
    }
    best, fast, other_best, other_fast = reconstruction(found)
    assert best[-1] == "**held**"
    assert fast[-1] == "**held**"  # nothing else is as accurate
    assert fast[2].endswith("As accurate: no other")
    assert other_best[-1] == "**held in part**"  # better than DDIM alone
    assert other_fast[2].endswith("GNRI takes 2 calls a step. As accurate: ReNoise, averaged, 9")
    assert set(competitors(rows(1, 2, 3, 4, 5))) == set([*COSTS][2:])


def test_iterations_and_prior_are_judged_by_gains_and_norms() -> None:
    def form(gain: float) -> dict[str, dict[str, float]]:
        flat = {f"0.1, {n}": {"latent": 30 + gain * (n == 5), "norm": 3.0} for n in (1, 2, 3, 5)}
        return flat | {f"{w}, 2": {"latent": 30, "norm": n} for w, n in (("0", 5.0), ("1", 2.0), ("10", -9.0))}

    found = {"ablation": {"date": "today", "turbo-flow": {"paper": form(0.5), "released code": form(2.0)}}}
    plateau, likely = ablation(found)
    assert plateau[-1] == "**held in part**"
    assert likely[-1] == "**held**"
    assert "lambda 10 -9.0" in likely[2]
