"""The losses of preference learning as pure functions of tensors. They know no model and no batch layout."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class DPOLoss(NamedTuple):
    """Per-pair values, each of shape (pairs,)."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


def dpo_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> DPOLoss:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    -log sigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected))), where the arguments
    (pairs,) are log-probabilities of whole responses, sums over their tokens.
    """
    chosen_reward = beta * (chosen - reference_chosen)
    rejected_reward = beta * (rejected - reference_rejected)
    loss = -F.logsigmoid(chosen_reward - rejected_reward)
    return DPOLoss(loss, chosen_reward.detach(), rejected_reward.detach())


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigmoid(score of chosen - score of rejected), (pairs,): the likelihood that chosen wins."""
    return -F.logsigmoid(chosen - rejected)


def group_advantages(rewards: Tensor, *, scale: bool = True) -> Tensor:
    """Advantages of GRPO (arXiv 2402.03300, section 4.1.1): reward relative to the group of the same query.

    ``rewards`` (queries, group). Subtracts each group's mean and, with ``scale``, divides by its standard
    deviation. A group whose rewards are all equal gets zeros: it says nothing about which answer is better.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    constant = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    if scale and rewards.shape[1] > 1:
        centred = centred / (rewards.std(dim=1, keepdim=True) + 1e-6)
    return torch.where(constant, torch.zeros_like(centred), centred)


class PolicyLoss(NamedTuple):
    """Per-token values, each of shape (tokens,)."""

    loss: Tensor
    kl: Tensor
    clipped: Tensor


def clipped_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float,
    reference_log_probs: Tensor | None = None, kl_coefficient: float = 0.0,
) -> PolicyLoss:  # fmt: skip
    """Token losses of GRPO: PPO's clipped surrogate (arXiv 1707.06347) plus, where asked, a KL penalty.

    All arguments (tokens,). The ratio pi / pi_old is clipped to [1 - clip_low, 1 + clip_high]. The penalty is
    the k3 estimator of KL(pi || reference), exp(d) - d - 1 with d = log reference - log pi: unbiased and >= 0.
    """
    ratio = torch.exp(log_probs - old_log_probs)
    limited = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantages, limited * advantages)
    kl = torch.zeros_like(loss)
    if reference_log_probs is not None:
        difference = reference_log_probs - log_probs
        kl = torch.exp(difference) - difference - 1
        loss = loss + kl_coefficient * kl
    clipped = (limited * advantages < ratio * advantages).detach()
    return PolicyLoss(loss, kl.detach(), clipped)


def reduce_tokens(values: Tensor, sequence: Tensor, lengths: Tensor, kind: str) -> Tensor:
    """Mean of token values (tokens,) over responses: ``sequence`` gives each token's response.

    ``lengths`` (responses,) are the token counts of *all* sampled responses, also of those without tokens here.
    ``sequence``: mean over responses of each one's mean (GRPO as published). ``token``: mean over all tokens,
    so that long responses weigh more (DAPO, arXiv 2503.14476).
    """
    if kind == "token":
        return values.sum() / lengths.sum()
    weights = 1.0 / (lengths.to(values.dtype) * len(lengths))
    return (values * weights[sequence]).sum()
