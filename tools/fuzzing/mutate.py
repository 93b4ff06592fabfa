"""Changes bytes as damage, and as an attacker, would."""

from __future__ import annotations

import random

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """Returns bytes with one to eight changes; `other` is a file to splice from."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if not changed:
            break
        at = rng.randrange(len(changed))
        if rng.random() < 0.5:
            at = rng.randrange(min(len(changed), 64))  # headers say the most
        kind = rng.randrange(9)
        some = rng.choice((1, 2, 4, 16, 100, 1000))
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + some] = rng.randbytes(some)
        elif kind == 2:
            del changed[at : at + some]
        elif kind == 3:
            changed[at:at] = changed[at : at + some] * rng.choice((1, 2, 50))
        elif kind == 4:
            del changed[at:]
        elif kind == 5:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(_EXTREMES) & ((1 << 8 * width) - 1)
            order = rng.choice(("little", "big"))
            changed[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
        elif kind == 6 and other:
            start = rng.randrange(len(other))
            changed[at : at + some] = other[start : start + some]
        elif kind == 7:
            changed[at:at] = rng.randbytes(some)
        else:
            changed[at : at + some] = bytes(some)
    return bytes(changed)
