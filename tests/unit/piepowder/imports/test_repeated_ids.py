"""Repeated ids are counted exactly, whatever their number and characters."""

from piepowder.imports.repeated_ids import RepeatedIds, counting_ids


def test_ids_are_compared_as_they_are_written() -> None:
    with counting_ids() as ids:
        for number, name in enumerate(["A", "a", "é", "e\u0301", "\udcfc", "A ", "\x00", ""], 1):
            ids.add(name, number)
        assert ids.result() == RepeatedIds(0)
        ids.add("\udcfc", 9)
        ids.add("é", 10)
        assert ids.result() == RepeatedIds(2, "é", (3, 10))


def test_the_first_repeated_id_of_many_is_the_example() -> None:
    with counting_ids() as ids:
        for number in range(1, 30_001):
            ids.add(f"id-{number % 29_990}", number)
        assert ids.result() == RepeatedIds(10, "id-1", (1, 29_991))
