"""Payments: charges cards at a provider that is slow, declines, and times out after it has charged.

A time-out says nothing about the money, so the same charge is sent again under the same idempotency key until the
provider says what became of it. The refund goes by that key too: it needs no answer of the charge.
"""

from __future__ import annotations

import aiohttp
import msgspec

from jetloom import ErrorClass, Module, Runtime, StepContext, TaskFailed, Undo, step
from services.contracts import Id


class PaymentsConfig(msgspec.Struct, frozen=True):
    provider_url: str = "http://127.0.0.1:8080"
    timeout_seconds: float = 1.0


class Charge(msgspec.Struct, frozen=True):
    order: Id
    card: str
    amount_cents: int


class Charged(msgspec.Struct, frozen=True):
    charge: str


class Payments(Module):
    id = "payments"
    description = "charges and refunds cards"
    config = PaymentsConfig

    async def init(self, rt: Runtime) -> None:
        config = rt.config_as(PaymentsConfig)
        self._http = aiohttp.ClientSession(
            config.provider_url, timeout=aiohttp.ClientTimeout(total=config.timeout_seconds)
        )

    async def shutdown(self) -> None:
        await self._http.close()

    @step("payments.charge", undo="payments.refund")
    async def charge(self, ctx: StepContext, request: Charge) -> Charged:
        key = charge_key(ctx)
        status = await self._post("/charges", msgspec.to_builtins(request), {"Idempotency-Key": key})
        match status:
            case 201:
                return Charged(key)
            case 402:
                raise TaskFailed("card.declined", f"the card of order {request.order} was declined")
            case _:
                raise TaskFailed("charge.refused", f"the provider answered {status} to charge {key}")

    @step("payments.refund")
    async def refund(self, ctx: StepContext, _: Undo[Charge, Charged]) -> None:
        """Afterwards no money is kept: the charge is given back, or voided if it was never made or arrives later."""
        status = await self._post(f"/charges/{charge_key(ctx)}/cancel", None, {})
        if status != 200:
            raise TaskFailed(
                "refund.refused", f"the provider answered {status} to the refund of {charge_key(ctx)}"
            )

    async def _post(self, path: str, body: object, headers: dict[str, str]) -> int:
        """The answer's status; what may work the next time is raised as retryable."""
        try:
            async with self._http.post(path, json=body, headers=headers) as answer:
                if answer.status < 500:
                    return answer.status
                reason = f"answered {answer.status}"
        except TimeoutError:
            reason = "did not answer in time"
        except aiohttp.ClientError as error:
            reason = str(error)
        raise TaskFailed("provider.unavailable", f"the provider {reason}", error_class=ErrorClass.RETRYABLE)


def charge_key(ctx: StepContext) -> str:
    """One charge per run: known to the step and to its undo, the same for every attempt."""
    return f"{ctx.run}.{ctx.inc}.charge"
