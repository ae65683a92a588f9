"""A payment provider as shops meet them: HTTP, its own ledger, and its own idea of a good answer time.

It is a process of its own and knows nothing of jetloom. What it promises is what real ones promise:

- `POST /charges` with an `Idempotency-Key`: the same key with the same body has the same answer, for ever, and takes
  money at most once; the same key with another body is refused with 409.
- `POST /charges/{key}/cancel`: after it, no money of that key is kept, whether the charge was made, was never made, or
  arrives later. Repeating it changes nothing.
- A time-out says nothing: the money may have been taken.

How it behaves is the card's to say (`Card`), so that a test and a demo know what to expect.
"""

from ._ledger import Answer, Ledger
from ._server import Card, make_app

__all__ = ["Answer", "Card", "Ledger", "make_app"]
