"""The random bits of stochastic compression and rounding in plain PyTorch: Philox4x32-10, indexed by what they are for.

Salmon et al. 2011 (Parallel random numbers: as easy as 1, 2, 3). Nothing is drawn in order, so bits depend on neither
block size, number of agents, backend nor process. The 64-bit seed is the key, low word first. The counter's words are

    0  column of the row, divided by the elements that one block serves
    1  agent: the row's number, counted from `first_agent`
    2  step, its low 32 bits
    3  stream: what the bits are for. CHOICE has 4 elements a block, 32 bits each: word j of element j. ROUNDING (of a
       quantizer), MOMENTUM and COPIES (of buffers kept as bfloat16) and ASCENT (of tensors that are perturbed, numbered
       in place of columns) have 8 elements a block, 16 bits each: word j // 2 of element j, low half first
"""

import torch

ROUNDING, CHOICE, MOMENTUM, COPIES, ASCENT = 0, 1, 2, 3, 4

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox(counter: Words, seed: int) -> Words:
    """Four random 32-bit words, in int64 tensors, for each of the counter's elements."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & WORD, seed >> 32 & WORD
    for _ in range(ROUNDS):
        # the product's low 64 bits are right although it wraps
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = (second >> 32 & WORD) ^ c1 ^ k0, second & WORD
        c2, c3 = (first >> 32 & WORD) ^ c3 ^ k1, first & WORD
        k0, k1 = k0 + KEY_STEPS[0] & WORD, k1 + KEY_STEPS[1] & WORD
    return c0, c1, c2, c3


def words(
    rows: torch.Tensor, elements: int, seed: int, step: torch.Tensor, first_agent: int, stream: int
) -> torch.Tensor:
    """The blocks' words for `rows` `[agents, columns]`, as int64 `[agents, columns / elements, 4]`."""
    agents, columns = rows.shape
    shape = (agents, columns // elements)
    block = torch.arange(shape[1], device=rows.device).expand(shape)
    agent = (first_agent + torch.arange(agents, device=rows.device))[:, None].expand(shape)
    round_ = (step & WORD).reshape(-1, 1).expand(shape)
    counter = (block, agent, round_, torch.full_like(block, stream))
    return torch.stack(philox(counter, seed), dim=-1)


def halves(
    rows: torch.Tensor, seed: int, step: torch.Tensor, first_agent: int, stream: int = ROUNDING
) -> torch.Tensor:
    """16 random bits for each element of `rows`, int64 `[agents, columns]`, of a stream that has so many."""
    drawn = words(rows, 8, seed, step, first_agent, stream)
    return torch.stack((drawn & 0xFFFF, drawn >> 16), dim=-1).reshape(rows.shape)


def whole(rows: torch.Tensor, seed: int, step: torch.Tensor, first_agent: int) -> torch.Tensor:
    """32 random bits for each element of `rows`, int64 `[agents, columns]`, of the stream CHOICE."""
    return words(rows, 4, seed, step, first_agent, CHOICE).reshape(rows.shape)
