"""The GPU that an attempt, or an item of a map, sees: whether there is one, and the share of it that may be used."""

from __future__ import annotations

_limit = 1.0  # of this process, on the one card that it sees


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def keep_to_share(gpus: float) -> None:
    """Limit this process to its fraction of the card's memory, so that it cannot take what is another's.

    Ray counts fractions of a card but does not enforce them. Workers are reused: who holds whole cards, or none, after
    one that held a fraction is limited no more. torch is not imported for the sake of those.
    """
    global _limit
    limit = gpus if 0 < gpus < 1 else 1.0
    if limit != _limit and has_cuda():
        import torch

        torch.cuda.set_per_process_memory_fraction(limit)
        _limit = limit
