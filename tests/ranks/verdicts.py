"""What is to be said when a rank has failed, and what is wrong with what was."""

from collections.abc import Iterator, Sequence

from fastsaddle.optimizer.errors import NonFiniteGradientError
from fastsaddle.ranks import PeerError
from tests.ranks.processes import Ended
from tests.ranks.work import Fault

# seconds from the failure until every other rank has raised; where one was stopped, from the timeout on
SOON = {"kill": 3.0, "stop": 3.0, "pause": 3.0, "raise": 1.0, "nan": 1.0, "leave": 3.0}
SAID = {
    "kill": ("connection closed",),
    # who was not waiting for it itself may have been told by a closed connection alone
    "stop": ("nothing came for", "connection closed"),
    "pause": ("nothing came for", "connection closed", "was stopped for"),
    "raise": ("Fault: on purpose",),
    "nan": ("NonFiniteGradientError: gradients must be finite",),
    "leave": ("has left after step",),
}
# what the culprit itself raises, where it lives
OWN = {"raise": Fault, "nan": NonFiniteGradientError, "pause": PeerError}


def complaints(
    found: Sequence[Ended],
    culprit: int,
    how: str,
    counts: tuple[int, ...],
    timeout: float,
    takes_notes: bool,
) -> Iterator[str]:
    """All that is wrong with how the ranks ended; nothing where the failure never came.

    Args:
        found: of each rank, what `work.faulty` came to.
        culprit: the rank that was to fail.
        how: what it did.
        counts: agents of each rank.
        timeout: of messages.
        takes_notes: whether the culprit served the store.
    """
    fault = found[culprit].fault
    if fault is None:
        yield f"rank {culprit} did not fail: {found[culprit]}"
        return
    first = sum(counts[:culprit])
    said = set()
    for rank, ended in enumerate(found):
        if rank == culprit and how not in OWN:
            continue
        if ended.hung:
            yield f"hang: rank {rank} has not ended"
            continue
        if ended.error is not None or not isinstance(ended.value, dict):
            yield f"rank {rank} came to {ended.value!r}, {ended.error!r}"
            continue
        error, again = ended.value["error"], ended.value["again"]
        if not ended.value["kept"]:
            yield f"rank {rank}: models are not those before the step"
        # who was away may find the store gone with rank 0
        named = {culprit, 0} if rank == culprit and how == "pause" else {culprit}
        if not isinstance(again, PeerError) or again.rank not in named:
            yield f"rank {rank}: a further step came to {again!r}"
        if rank == culprit:
            if not isinstance(error, OWN[how]):
                yield f"rank {rank}, where it failed, raised {error!r}"
            continue
        if not isinstance(error, PeerError):
            yield f"rank {rank} raised {error!r}"
            continue
        if error.rank != culprit or error.agents != range(first, first + counts[culprit]):
            yield f"rank {rank} names another rank: {error}"
        # a note that goes with the process that holds it says nothing
        due = (*SAID[how], "connection closed") if takes_notes and how == "leave" else SAID[how]
        if not any(words in str(error) for words in due):
            yield f"rank {rank} gives another cause: {error}"
        if str(error) != str(again):
            yield f"rank {rank}: {again} after {error}"
        late = ended.value["raised"] - fault - (timeout if how in ("stop", "pause") else 0)
        if late > SOON[how]:
            yield f"rank {rank} raised {late:.1f} s after it was due"
        said.add(str(error))
    # where the notes go with the culprit everybody tells what it saw
    if len(said) > 1 and not takes_notes:
        yield f"ranks tell different things: {sorted(said)}"
