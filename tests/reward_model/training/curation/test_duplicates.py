from __future__ import annotations

from collections.abc import Callable

import pytest

from reward_model.labels import Pair
from reward_model.training.curation.duplicates import clusters, near_duplicates, normalised, similarity, texts


def test_normalising_removes_what_nobody_sees() -> None:
    assert normalised("  Ｒefund\u00a0\n the CAFÉ ") == normalised("refund the cafe\u0301")
    assert normalised("Let's eat, Ann") != normalised("Lets eat Ann")


def test_a_pair_and_its_flipped_copy_have_one_key(pair: Callable[..., Pair]) -> None:
    one, flipped = pair("a", "Yes.", "No.", prompt="x"), pair("b", "no.", "YES.", prompt="X ")
    assert texts(one).key == texts(flipped).key
    assert texts(one).key != texts(pair("c", "Yes.", "Never.", prompt="x")).key


def test_the_opening_system_message_is_kept_apart(pair: Callable[..., Pair]) -> None:
    system, user = {"role": "system", "content": "Rule 1."}, {"role": "user", "content": "Hi"}
    assert texts(pair("a", prompt=[system, user])).prompt == ("rule 1.", "user: hi")
    assert texts(pair("a", prompt=[user, system])).prompt == ("", "user: hi system: rule 1.")
    assert texts(pair("a", prompt=[system])).prompt == ("", "system: rule 1.")


def test_similarity_is_the_jaccard_index_of_runs_of_five() -> None:
    # abcde bcdef cdefg | abcde bcdef cdefh: two of four.
    assert similarity("abcdefg", "abcdefh") == 0.5
    assert similarity("退货政策是什么", "退货政策是什么") == 1.0
    assert similarity("abc", "xyz") == 0.0
    assert similarity("", "") == 1.0


def _reference(left: str, right: str) -> float:
    mine, other = ({text[i : i + 5] for i in range(len(text) - 4)} for text in (left, right))
    return len(mine & other) / len(mine | other)


@pytest.mark.parametrize("changed", ["order 17", "order 1 please", "my invoice"])
def test_similarity_agrees_with_sets_of_strings(changed: str) -> None:
    left = "hello, i would like to return the kettle of order 1 because it leaks"
    right = left.replace("order 1", changed)
    assert similarity(left, right) == pytest.approx(_reference(left, right))


def test_near_duplicates_are_found_within_a_block_alone() -> None:
    asked = [
        f"customer {i} asks when the refund of order number {i * 7919} arrives on the card ending in {i}"
        for i in range(5)
    ]
    strings = [*asked, asked[0] + "!", "something else entirely, about a lost parcel", asked[3] + "?", asked[1] + "."]
    blocks = ["x"] * 8 + ["y"]
    assert list(near_duplicates(strings, blocks, 0.9)) == [(0, 5), (3, 7)]


def test_many_alike_are_linked_without_comparing_all() -> None:
    strings = [f"the same long question about a late fee on an invoice, number {i:03}" for i in range(200)]
    links = list(near_duplicates(strings, [""] * 200, 0.8))
    assert len(links) < 2000  # of 19,900
    assert clusters(200, links) == [list(range(200))]


def test_clusters_join_links_of_links() -> None:
    assert clusters(6, [(0, 2), (4, 5), (2, 3)]) == [[0, 2, 3], [4, 5]]
    assert clusters(4, [(0, 2), (1, 2)]) == [[0, 1, 2]]
