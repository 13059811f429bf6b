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
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float,
    *, flip_rate: float = 0.0,
) -> DPOLoss:  # fmt: skip
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    -log sigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected))), where the arguments
    (pairs,) are log-probabilities of whole responses, sums over their tokens; means over them give the
    length-normalised loss (Tulu 3, arXiv 2411.15124, equation 6). ``flip_rate`` < 0.5 is the share of pairs that are
    taken to be labelled the wrong way round: robust DPO (arXiv 2403.00409, equation 10), unbiased under such noise.
    """
    chosen_reward = beta * (chosen - reference_chosen)
    rejected_reward = beta * (rejected - reference_rejected)
    margin = chosen_reward - rejected_reward
    loss = -F.logsigmoid(margin)
    if flip_rate > 0:
        loss = ((1 - flip_rate) * loss + flip_rate * F.logsigmoid(-margin)) / (1 - 2 * flip_rate)
    return DPOLoss(loss, chosen_reward.detach(), rejected_reward.detach())


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid(score of chosen - score of rejected - margin), (pairs,): the likelihood that chosen wins.

    ``margin`` (pairs,) or one number: by how much more at least, larger where the answers differ more (Llama 2, arXiv
    2307.09288, equation 2).
    """
    return -F.logsigmoid(chosen - rejected - margin)


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
    reference_log_probs: Tensor | None = None, kl_coefficient: float = 0.0, sequence: Tensor | None = None,
) -> PolicyLoss:  # fmt: skip
    """Token losses of GRPO: PPO's clipped surrogate (arXiv 1707.06347) plus, where asked, a KL penalty.

    All arguments (tokens,). The ratio pi / pi_old is clipped to [1 - clip_low, 1 + clip_high]. The penalty is
    the k3 estimator of KL(pi || reference), exp(d) - d - 1 with d = log reference - log pi: unbiased and >= 0.
    With ``sequence``, each token's response, a token's ratio is that of its whole response, the geometric mean over
    its tokens: GSPO (arXiv 2507.18071, equation 7).
    """
    log_ratio = log_probs - old_log_probs
    if sequence is not None:
        log_ratio = _sequence_means(log_ratio, sequence)[sequence]
    ratio = torch.exp(log_ratio)
    limited = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantages, limited * advantages)
    kl = torch.zeros_like(loss)
    if reference_log_probs is not None:
        difference = reference_log_probs - log_probs
        kl = torch.exp(difference) - difference - 1
        loss = loss + kl_coefficient * kl
    clipped = (limited * advantages < ratio * advantages).detach()
    return PolicyLoss(loss, kl.detach(), clipped)


def _sequence_means(values: Tensor, sequence: Tensor) -> Tensor:
    """Mean of token values (tokens,) of each response, (highest index + 1,); zero for one without tokens."""
    count = int(sequence.max()) + 1 if len(sequence) else 0
    sums = values.new_zeros(count).index_add(0, sequence, values)
    return sums / torch.bincount(sequence, minlength=count).clamp(min=1)


def reduce_tokens(values: Tensor, sequence: Tensor, lengths: Tensor, kind: str, longest: int | None = None) -> Tensor:
    """Mean of token values (tokens,) over responses: ``sequence`` gives each token's response.

    ``lengths`` (responses,) are the token counts of *all* sampled responses, also of those without tokens here.
    ``sequence``: mean over responses of each one's mean (GRPO as published). ``token``: mean over all tokens,
    so that long responses weigh more (DAPO, arXiv 2503.14476). ``constant``: sum over (responses * ``longest``), the
    most tokens that a response may have, so that no length weighs a token (Dr. GRPO, arXiv 2503.20783).
    """
    if kind == "constant":
        if longest is None:
            raise ValueError("reduce_tokens: 'constant' needs longest")
        return values.sum() / (len(lengths) * longest)
    if kind == "token":
        return values.sum() / lengths.sum()
    weights = 1.0 / (lengths.to(values.dtype) * len(lengths))
    return (values * weights[sequence]).sum()


def importance(log_probs: Tensor, old_log_probs: Tensor) -> dict[str, float]:
    """How far the policy has gone from the one that sampled, (tokens,) each: what importance weights are worth.

    ``ratio_deviation``: mean of |pi / pi_old - 1|. ``effective_share``: Kish's effective sample size of the weights
    pi / pi_old over the number of tokens, 1 where nothing has moved.
    """
    ratio = torch.exp(log_probs - old_log_probs)
    share = ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum())
    return {"ratio_deviation": (ratio - 1).abs().mean().item(), "effective_share": share.item()}


def overlong_punishment(lengths: Tensor, longest: int, buffer: int) -> Tensor:
    """Soft punishment of long responses, in [-1, 0] (DAPO, arXiv 2503.14476, equation 13).

    Zero up to ``longest - buffer`` tokens, then linear down to -1 at ``longest``, and -1 beyond.
    """
    return ((longest - buffer - lengths) / buffer).clamp(-1, 0)
