"""A message is repeated ever less often while it stays the same."""

from aimnet2mult.train.repeats import Repeats


def test_the_first_second_fourth_and_eighth_occurrence_are_reported() -> None:
    repeats = Repeats()
    assert [number for number in range(1, 20) if repeats.add("full")] == [1, 2, 4, 8, 16]
    assert repeats.count == 19


def test_another_message_or_the_end_of_the_problem_starts_again() -> None:
    repeats = Repeats()
    assert [repeats.add(text) for text in ("a", "a", "a", "b", "a")] == [True, True, False, True, True]
    repeats.add("a")
    repeats.end()
    assert [repeats.add("a") for _ in range(3)] == [True, True, False]
