"""Which examples are tried where, in a run without --full: as few as leave no example and no place out."""


def is_chosen(place: int, places: int, example: int, examples: int, turn: int = 0) -> bool:
    """Whether an example, told by its number, is tried at a place, such as a number of agents.

    Each example is at one place at least and each place has one example at least. Over as many turns as there are
    places or examples, the fewer of both, every example is at every place.
    """
    return (place + turn - example) % min(places, examples) == 0
