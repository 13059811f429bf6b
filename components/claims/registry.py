"""All claims, in the order of the report."""

from components.claims import data, long_context, preference, pretraining, rewards, sft
from components.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = (
    *data.CLAIMS, *pretraining.CLAIMS, *long_context.CLAIMS, *sft.CLAIMS, *preference.CLAIMS,
    *rewards.CLAIMS,
)  # fmt: skip
