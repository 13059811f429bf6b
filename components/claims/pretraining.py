"""Hyper-parameters and architecture (report, sections 2 and 3.2)."""

from typing import TYPE_CHECKING

from components.claims.claim import Bench, Claim, Contrast, Measured, Scores
from components.evaluation.held_out import HeldOutConfig
from components.scaling.sweep import ScalingConfig, SweepShape
from components.stage import StageConfig
from components.training.pretrain import PretrainConfig
from model.config import ModelConfig, MoEConfig

if TYPE_CHECKING:
    from model.transformer import Transformer

TEXT = "bits per byte of held-out text"
TEXTS = HeldOutConfig(tokens_per_domain=3_000)


class TrainingsConfig(StageConfig):
    """Two pre-trainings at equal tokens; the vocabulary is the recipe's."""

    treated: PretrainConfig
    baseline: PretrainConfig
    texts: HeldOutConfig = TEXTS


def trained(config: PretrainConfig, bench: Bench) -> "Transformer":
    """What stage ``pretrain`` makes of it on the recipe's shards."""
    from components.data.shard_reader import ShardReader
    from components.training.pretrain import pretrain
    from model.checkpoint import load_model

    rows = ShardReader(bench.inputs["shards"]).vocab_size
    config = config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": rows})})
    inputs = {name: bench.inputs[name] for name in ("shards", "tokenizer", "scaling")}
    return load_model(bench.make(pretrain, "checkpoint", config, inputs).path, bench.run.device).eval()


def _text(config: TrainingsConfig, bench: Bench, treated: "Transformer", baseline: "Transformer") -> Scores:
    from components.claims import measuring
    from components.data.shard_reader import ShardReader

    documents = measuring.texts(bench.inputs["shards"], bench.inputs["tokenizer"].path, config.texts)
    eos_id = ShardReader(bench.inputs["shards"]).eos_id
    first, second = (
        measuring.bits(model, documents, eos_id, model.config.max_position_embeddings) for model in (treated, baseline)
    )
    return Scores.of(first, second, weights=(d.bytes for d in documents))


def hyper_parameters(config: TrainingsConfig, bench: Bench) -> Measured:
    """Held-out text under both."""
    return {TEXT: _text(config, bench, trained(config.treated, bench), trained(config.baseline, bench))}


ACTIVE = "parameters that a token meets, without embeddings"


def experts(config: TrainingsConfig, bench: Bench) -> Measured:
    """Held-out text under both, and what each spends on a token."""
    models = trained(config.treated, bench), trained(config.baseline, bench)
    spent = [m.config.num_active_parameters() - m.output_weight.numel() for m in models]
    return {TEXT: _text(config, bench, *models), ACTIVE: Scores.of(*([value] * 2 for value in spent))}


# -- the law ----------------------------------------------------------------------------------------------------


class PredictionConfig(StageConfig):
    """Models beyond the sweep, trained at the rate and batch that its law gives."""

    scaling: ScalingConfig
    tokens: tuple[int, ...] = (131_072, 196_608)


ERROR = "relative error of the predicted loss, against the nearest measured one as the guess"


def prediction(config: PredictionConfig, bench: Bench) -> Measured:
    """Loss of every larger model: measured, predicted, and guessed as that of the run nearest in size and tokens."""
    import math

    from components.scaling.law import ScalingLaw
    from components.scaling.trials import Trials

    law = ScalingLaw.read(bench.inputs["scaling"].path / "law.json")
    trials = Trials(config.scaling, bench.inputs["shards"], bench.run)
    made = []
    for shape in config.scaling.shapes:
        for tokens in config.tokens:
            size = trials.make(shape, tokens, 1.0, 1).size
            rate, batch = law.predict_learning_rate(size, tokens), round(law.predict_batch_tokens(size, tokens))
            made.append(trials.make(shape, tokens, rate, batch))
    losses = [point.loss for point in trials.run(made, "larger models")]
    errors, guesses = [], []
    for trial, loss in zip(made, losses, strict=True):
        distances = [
            abs(math.log(o.parameters / trial.size)) + abs(math.log(o.tokens / trial.tokens)) for o in law.optima
        ]
        nearest = law.optima[distances.index(min(distances))]
        errors.append(abs(law.predict_loss(trial.size, trial.tokens) / loss - 1))
        guesses.append(abs(nearest.loss / loss - 1))
    return {ERROR: Scores.of(errors, guesses)}


def _shape(hidden_size: int, layers: int) -> SweepShape:
    return SweepShape(
        hidden_size=hidden_size, intermediate_size=3 * hidden_size, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip


def _model(shape: SweepShape, moe: MoEConfig | None = None) -> ModelConfig:
    return ModelConfig(
        vocab_size=4096, max_position_embeddings=256, tie_word_embeddings=True, moe=moe, **shape.model_dump()
    )


def _training(model: ModelConfig, tokens: int, **settings: object) -> PretrainConfig:
    common = {
        "sequence_length": 256, "optimizer": "muon", "schedule": "wsd", "min_steps": 64, "model": model,
        "tokens": tokens,
    }  # fmt: skip
    return PretrainConfig.model_validate(common | settings)


HELD_OUT_SIZE = _model(_shape(128, 4))
SWEEP = ScalingConfig(optimizer="muon", shapes=(_shape(112, 4), _shape(128, 4), _shape(160, 4)))
DENSE = _shape(96, 3)
EXPERTS = MoEConfig(
    num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48, shared_expert_intermediate_size=96,
    norm_topk_prob=True, router_aux_loss_coef=0.01,
)  # fmt: skip
TUNED = {"hyper_parameters": "recipe", "learning_rate": 8e-3, "batch_tokens": 2_048, "decay_ratio": 0.4}
NEEDS = ("shards", "tokenizer", "scaling")

CLAIMS = (
    Claim(
        "fitted-hyper-parameters", "pre-training", "Learning rate and batch size from the scaling law beat defaults at "
        "a size that no sweep has seen", "3.2",
        "4 layers, 128 wide, 196,608 tokens (the sweep ends at 3 layers, 96 wide, 131,072 tokens): what the law "
        "predicts, against the recipe's defaults",
        NEEDS,
        TrainingsConfig(
            treated=_training(HELD_OUT_SIZE, 196_608),
            baseline=_training(
                HELD_OUT_SIZE, 196_608, hyper_parameters="recipe",
                learning_rate=SWEEP.default_learning_rate, batch_tokens=SWEEP.default_batch_tokens,
            ),
        ), hyper_parameters, (Contrast(TEXT, "bits/byte", "lower"),),
    ),
    Claim(
        "predicted-loss", "pre-training", "The loss of a larger model is predicted from small ones", "3.2",
        "three larger models at two budgets each, at the rate and batch that the law gives: the law's prediction, "
        "against the loss of the sweep's nearest cell",
        NEEDS, PredictionConfig(scaling=SWEEP), prediction, (Contrast(ERROR, better="lower"),),
    ),
    Claim(
        "experts", "pre-training", "A mixture of experts matches a dense model at fewer active parameters", "2",
        "3 layers, 96 wide, 600,000 tokens: 8 experts of 48 units of which a token takes 2, and a shared one of 96, "
        "against an FFN of 288",
        NEEDS,
        TrainingsConfig(
            treated=_training(_model(DENSE, EXPERTS), 600_000, **TUNED),
            baseline=_training(_model(DENSE), 600_000, **TUNED),
        ), experts,
        (Contrast(TEXT, "bits/byte", "lower", margin=0.01), Contrast(ACTIVE, "parameters", "lower")),
    ),
)  # fmt: skip
