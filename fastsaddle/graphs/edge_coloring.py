"""A graph's edges as matchings: sets of pairs that share no agent."""

from collections.abc import Sequence
from itertools import pairwise

Pair = tuple[int, int]


def matchings_of(neighbors: Sequence[Sequence[int]]) -> list[list[Pair]]:
    """An undirected graph's edges (i, j), i < j, as at most one matching more than the largest degree.

    Misra and Gries 1992 (doi:10.1016/0020-0190(92)90041-S): Vizing's bound, in time agents x edges.

    Args:
        neighbors: of each agent.
    """
    most = 1 + max(map(len, neighbors))
    # of each agent: color -> who it is shared with
    colored: list[dict[int, int]] = [{} for _ in neighbors]
    for u, near in enumerate(neighbors):
        for v in near:
            if u < v:
                _color(colored, u, v, most)
    found: list[list[Pair]] = [[] for _ in range(most)]
    for u, colors in enumerate(colored):
        for color, v in colors.items():
            if u < v:
                found[color].append((u, v))
    return [sorted(pairs) for pairs in found if pairs]


def _color(colored: list[dict[int, int]], u: int, v: int, most: int) -> None:
    """Give edge (u, v) a color, others along a fan of u and one alternating path another."""
    fan, grows = [v], True
    while grows:
        grows = False
        for color, w in colored[u].items():
            if w not in fan and color not in colored[fan[-1]]:
                fan.append(w)
                grows = True
                break
    c, d = _free(colored[u], most), _free(colored[fan[-1]], most)
    _invert(colored, u, c, d)
    # d is free at u now; the fan holds as far as its edges' colors are free at the one before
    end = next(
        k for k, w in enumerate(fan) if d not in colored[w] and _is_fan(colored, u, fan[: k + 1])
    )
    of = {w: color for color, w in colored[u].items()}
    for w in fan[1 : end + 1]:
        del colored[u][of[w]], colored[w][of[w]]
    for w, after in pairwise(fan[: end + 1]):
        colored[u][of[after]], colored[w][of[after]] = w, u
    colored[u][d], colored[fan[end]][d] = fan[end], u


def _invert(colored: list[dict[int, int]], u: int, c: int, d: int) -> None:
    """Exchange colors c and d on the path of both that begins at u with d."""
    path, color = [u], d
    while color in colored[path[-1]]:
        path.append(colored[path[-1]][color])
        color = c if color == d else d
    edges = [(a, b, d if k % 2 == 0 else c) for k, (a, b) in enumerate(pairwise(path))]
    for a, b, color in edges:
        del colored[a][color], colored[b][color]
    for a, b, color in edges:
        other = c if color == d else d
        colored[a][other], colored[b][other] = b, a


def _is_fan(colored: list[dict[int, int]], u: int, fan: Sequence[int]) -> bool:
    of = {w: color for color, w in colored[u].items()}
    return all(of[after] not in colored[w] for w, after in pairwise(fan))


def _free(colors: dict[int, int], most: int) -> int:
    return next(color for color in range(most) if color not in colors)
